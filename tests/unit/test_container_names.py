"""Names of containers, from files as their engines write them."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor import namer, spawn
from supervisor.aggregator.storage import (
    MOST_TRIES,
    NAMED,
    NAMELESS,
    PATH_BYTES,
    cgroup_fields,
    create_cgroups,
)
from supervisor.container_names import find, may_have_one
from supervisor.loop import Loop
from supervisor.pipeline import memory
from supervisor.spawn import Account

HEX = "3f4a" * 16
OTHER = "ab12" * 16
UID = "5f0c1f3e_9a4b_4c1d_8e2f_0123456789ab"
POD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice"
STORAGE = "var/lib/containers/storage/overlay-containers/containers.json"
TASKS = "run/containerd/io.containerd.runtime.v2.task"


def docker(name: Any) -> dict[str, Any]:
    return {f"var/lib/docker/containers/{HEX}/config.v2.json": {"ID": HEX, "Name": name}}


def storage(*containers: Any) -> dict[str, Any]:
    return {STORAGE: list(containers)}


def containerd(namespace: str, **annotations: str) -> dict[str, Any]:
    return {f"{TASKS}/{namespace}/{HEX}/config.json": {"annotations": annotations}}


CRI = {
    "io.kubernetes.cri.container-name": "coredns",
    "io.kubernetes.cri.sandbox-name": "coredns-7d8",
    "io.kubernetes.cri.sandbox-namespace": "kube-system",
}
LINK = {f"var/log/containers/coredns-7d8_kube-system_coredns-{HEX}.log": ""}
IN_KUBERNETES = "k8s_cntr_kube-system_coredns-7d8_coredns"

NAMES = [
    # path, files on disk, name
    (f"/docker/{HEX}", docker("/web"), "web"),
    (f"/system.slice/docker-{HEX}.scope", docker("/web_1.a"), "web_1.a"),
    (f"/docker/{OTHER}", docker("/web"), None),
    (f"/docker/{HEX}", {}, None),
    (
        f"/machine.slice/libpod-{HEX}.scope",
        storage({"id": OTHER, "names": ["x"]}, {"id": HEX, "names": ["db"]}),
        "db",
    ),
    (f"/machine.slice/libpod-conmon-{HEX}.scope", storage({"id": HEX, "names": ["db"]}), "db"),
    (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{HEX}.scope", {}, None),
    (f"/system.slice/nerdctl-{HEX}.scope", containerd("default", **{"nerdctl/name": "cache"}), "cache"),
    # Kubernetes: the kubelet's links, containerd, CRI-O, docker
    (f"{POD}/cri-containerd-{HEX}.scope", LINK, IN_KUBERNETES),
    (f"{POD}/cri-containerd-{HEX}.scope", containerd("k8s.io", **CRI), IN_KUBERNETES),
    (
        f"{POD}/crio-{HEX}.scope",
        storage({"id": HEX, "names": ["k8s_coredns_coredns-7d8_kube-system_5f0c_0"]}),
        IN_KUBERNETES,
    ),
    (f"/kubepods/burstable/pod{UID}/{HEX}", {**LINK, **docker("/k8s_x")}, IN_KUBERNETES),
    (f"{POD}/cri-containerd-{HEX}.scope", containerd("k8s.io"), None),
    # Proxmox
    ("/qemu.slice/104.scope", {"etc/pve/qemu-server/104.conf": "cores: 2\nname: build\n"}, "qemu_build"),
    ("/lxc/105", {"etc/pve/lxc/105.conf": "hostname: mail\nname: no\n"}, "mail"),
    ("/qemu.slice/104.scope", {"etc/pve/qemu-server/104.conf": "cores: 2\n"}, None),
    # the innermost id is the container's
    (f"/docker/{OTHER}/docker/{HEX}", docker("/inner"), "inner"),
    # what others have made of their files
    (f"/docker/{HEX}", docker("/" + "n" * 300), "n" * 100),
    (f"/docker/{HEX}", docker("/two words"), "two_words"),
    (f"/docker/{HEX}", docker(["/web"]), None),
    (f"/docker/{HEX}", docker(""), None),
    (f"/docker/{HEX}", {f"var/lib/docker/containers/{HEX}/config.v2.json": "{"}, None),
    (f"/docker/{HEX}", {f"var/lib/docker/containers/{HEX}/config.v2.json": "[" * 100_000}, None),
    (f"/docker/{HEX}", {f"var/lib/docker/containers/{HEX}/config.v2.json": " " * (1 << 21)}, None),
    (f"/libpod-{HEX}", {STORAGE: {"id": HEX}}, None),
    (f"/libpod-{HEX}", storage(7, {"id": HEX}, {"id": HEX, "names": [7]}), None),
    ("/docker/../../etc/passwd", {}, None),
    ("/system.slice/ssh.service", {}, None),
]


@pytest.mark.parametrize(("path", "files", "name"), NAMES)
def test_name_is_that_which_the_engine_has_on_disk(
    tmp_path: Path, path: str, files: dict[str, Any], name: str | None
) -> None:
    for place, content in files.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(content if isinstance(content, str) else json.dumps(content))
    assert find(path, tmp_path) == name
    assert may_have_one(path) or not name


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "var/lib/docker/containers" / HEX
    folder.mkdir(parents=True)
    os.mkfifo(folder / "config.v2.json")
    assert find(f"/docker/{HEX}", tmp_path) is None


def test_what_is_not_found_is_looked_for_a_few_times(tmp_path: Path) -> None:
    fd = create_cgroups()
    mapped = memory.Mapped(fd, cgroup_fields(), writable=True)
    table = mapped.at
    path = f"/docker/{HEX}".encode()
    for entity in (3, 5):
        table["path"][entity * PATH_BYTES : entity * PATH_BYTES + len(path)] = path
        table["path_bytes"][entity] = len(path)
    table["asked"][3] = 1
    for tries in range(MOST_TRIES):
        assert table["asked"][3] == 1 + tries
        assert namer.find_names(fd, tmp_path) == 0
    assert table["asked"][3] == NAMELESS
    table["asked"][3] = MOST_TRIES
    folder = tmp_path / "var/lib/docker/containers" / HEX
    folder.mkdir(parents=True)
    (folder / "config.v2.json").write_text('{"Name": "/late"}')
    assert namer.find_names(fd, tmp_path) == 0
    assert (table["asked"][3], table["asked"][5]) == (NAMED, 0)
    os.close(fd)


def test_a_namer_that_cannot_be_started_is_tried_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s, tried = 1000.0, 0

    def refuse(*args: object) -> None:
        nonlocal tried
        tried += 1
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(spawn, "spawn", refuse)
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    fd = create_cgroups()
    mapped = memory.Mapped(fd, cgroup_fields(), writable=True)
    mapped.at["asked"][3] = 1
    looking = namer.Namer(Loop(), Account("nobody", 65534, 65534), fd, "INFO", tmp_path)
    for _ in range(3):
        looking.look()
    assert tried == 1
    assert "tried again in 60 s" in caplog.text
    now_s += 61
    looking.look()
    assert tried == 2
    os.close(fd)
