"""What people call a container, from what its engine keeps on disk, by the path of its cgroup.

The names are those that Netdata's cgroup-name.sh finds by asking the engine or Kubernetes. Here nobody is
asked: files are read, and what they hold is checked.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

_ID: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_PROXMOX: Final = (
    # path of the cgroup, its file below /etc/pve, the key of its name, what Netdata puts before it
    (re.compile(r"/qemu\.slice/(\d{1,9})\.scope\Z"), "qemu-server", "name", "qemu_"),
    (re.compile(r"/lxc/(\d{1,9})\Z"), "lxc", "hostname", ""),
)
_FILE_BYTES: Final = 1 << 20
_NAME_LENGTH: Final = 100
_ENTRIES: Final = 20_000

_DOCKER: Final = "var/lib/docker/containers"
_STORAGE: Final = "var/lib/containers/storage/overlay-containers/containers.json"
_CONTAINERD: Final = "run/containerd/io.containerd.runtime.v2.task"
_KUBELET_LOGS: Final = "var/log/containers"


def may_have_one(path: str) -> bool:
    """Whether there is anything to look for."""
    return bool(_ID.search(path) or any(pattern.match(path) for pattern, *_ in _PROXMOX))


def find(path: str, root: Path = Path("/")) -> str | None:
    """The name, None when it is not to be had (yet). root: where the host's files are. No OSError."""
    ids = _ID.findall(path)
    names = _by_id(ids[-1], root) if ids else _of_proxmox(path, root)
    return next((_cleaned(name) for name in names if name), None)


def _cleaned(name: str) -> str:
    return name[:_NAME_LENGTH].replace(" ", "_")


def _by_id(identity: str, root: Path) -> Iterator[str]:
    sources: tuple[Callable[[str, Path], str], ...] = (_kubelet, _docker, _storage, _containerd)
    return (source(identity, root) for source in sources)


def _pod(namespace: Any, pod: Any, container: Any) -> str:
    """As cgroup-name.sh calls a container of Kubernetes."""
    parts = (namespace, pod, container)
    return f"k8s_cntr_{'_'.join(parts)}" if all(isinstance(part, str) and part for part in parts) else ""


def _kubelet(identity: str, root: Path) -> str:
    """The kubelet's links `<pod>_<namespace>_<container>-<id>.log`, which everybody can read."""
    end = f"-{identity}.log"
    try:
        with os.scandir(root / _KUBELET_LOGS) as entries:
            found = next(
                (e.name for e, _ in zip(entries, range(_ENTRIES), strict=False) if e.name.endswith(end)), ""
            )
    except OSError:
        return ""
    parts = found.removesuffix(end).split("_")
    return _pod(parts[1], parts[0], parts[2]) if len(parts) == 3 else ""


def _docker(identity: str, root: Path) -> str:
    name = _member(_json(root / _DOCKER / identity / "config.v2.json"), "Name")
    return name.lstrip("/") if isinstance(name, str) else ""


def _storage(identity: str, root: Path) -> str:
    """Of podman and CRI-O. The latter's are `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`."""
    containers = _json(root / _STORAGE)
    for container in containers if isinstance(containers, list) else ():
        names = _member(container, "names")
        if _member(container, "id") == identity and isinstance(names, list) and names:
            first = names[0]
            parts = first.split("_") if isinstance(first, str) else []
            if len(parts) == 6 and parts[0] == "k8s":
                return _pod(parts[3], parts[2], parts[1])
            return first if isinstance(first, str) else ""
    return ""


def _containerd(identity: str, root: Path) -> str:
    """Of nerdctl, and of Kubernetes without the kubelet's links."""
    try:
        namespaces = os.listdir(root / _CONTAINERD)
    except OSError:
        return ""
    for namespace in namespaces[:_ENTRIES]:
        said = _member(_json(root / _CONTAINERD / namespace / identity / "config.json"), "annotations")
        name = _member(said, "nerdctl/name")
        if isinstance(name, str) and name:
            return name
        cri = [
            _member(said, f"io.kubernetes.cri.{key}")
            for key in ("sandbox-namespace", "sandbox-name", "container-name")
        ]
        if pod := _pod(*cri):
            return pod
    return ""


def _of_proxmox(path: str, root: Path) -> Iterator[str]:
    for pattern, folder, key, before in _PROXMOX:
        if found := pattern.match(path):
            text = _text(root / "etc/pve" / folder / f"{found[1]}.conf")
            name = re.search(rf"^{key}:[ \t]*(\S+)", text, re.MULTILINE)
            yield f"{before}{name[1]}" if name else ""


def _member(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path) or "null")
    except (ValueError, RecursionError):
        return None


def _text(path: Path) -> str:
    """ "" for what cannot be read, is no file, or is too long to be one of these."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return ""
    with open(fd, "rb") as file:
        try:
            data = file.read(_FILE_BYTES + 1)
        except OSError:
            return ""
    return "" if data is None or len(data) > _FILE_BYTES else data.decode("utf-8", "replace")
