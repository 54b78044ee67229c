"""What a cgroup is and is called, by its path."""

import pytest

from supervisor.aggregator.cgroup_names import Kind, chart_type, counted_in, name_of

HEX = "3f4a" * 16
UID = "5f0c1f3e-9a4b-4c1d-8e2f-0123456789ab"
ESCAPED_UID = UID.replace("-", "_")
SERVICE, CONTAINER = Kind.SERVICE, Kind.CONTAINER
BURSTABLE = "/kubepods.slice/kubepods-burstable.slice"

SHOWN = [
    # path, kind, name, chart type
    ("/system.slice/ssh.service", SERVICE, "ssh", "systemd_ssh"),
    ("/system.slice/getty@tty1.service", SERVICE, "getty@tty1", "systemd_getty_tty1"),
    ("/system.slice/org.a.b.service", SERVICE, "org.a.b", "systemd_org-a-b"),
    # docker: cgroupfs driver, systemd driver
    (f"/docker/{HEX}", CONTAINER, HEX[:12], f"cgroup_docker_{HEX}"),
    (
        f"/system.slice/docker-{HEX}.scope",
        CONTAINER,
        HEX[:12],
        f"cgroup_system-slice_docker-{HEX}-scope",
    ),
    ("/docker/web", CONTAINER, "docker_web", "cgroup_docker_web"),
    ("/docker/0123abc", CONTAINER, "docker_0123abc", "cgroup_docker_0123abc"),
    # podman
    (
        f"/machine.slice/libpod-{HEX}.scope",
        CONTAINER,
        HEX[:12],
        f"cgroup_machine-slice_libpod-{HEX}-scope",
    ),
    (
        f"/machine.slice/libpod-conmon-{HEX}.scope",
        CONTAINER,
        HEX[:12],
        f"cgroup_machine-slice_libpod-conmon-{HEX}-scope",
    ),
    # containerd without Kubernetes
    (
        f"/system.slice/nerdctl-{HEX}.scope",
        CONTAINER,
        HEX[:12],
        f"cgroup_system-slice_nerdctl-{HEX}-scope",
    ),
    (f"/default/{HEX}", CONTAINER, f"default_{HEX}", f"cgroup_default_{HEX}"),
    # CRI-O, with and without Kubernetes; a kubelet below a slice of its own
    (f"/system.slice/crio-{HEX}.scope", CONTAINER, HEX[:12], f"cgroup_system-slice_crio-{HEX}-scope"),
    (f"/kubepods.slice/kubepods-pod{ESCAPED_UID}.slice/crio-{HEX}.scope", CONTAINER, f"k8s_{HEX[:12]}", None),
    (
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
        f"kubelet-kubepods-besteffort-pod{ESCAPED_UID}.slice/cri-containerd-{HEX}.scope",
        CONTAINER,
        f"k8s_{HEX[:12]}",
        None,
    ),
    # Amazon's ECS
    ("/ecs/" + "ab12" * 8 + f"/{HEX}", CONTAINER, HEX[:12], None),
    # Kubernetes: cgroupfs driver with and without a class, systemd driver with and without
    (f"/kubepods/pod{UID}/{HEX}", CONTAINER, f"k8s_{HEX[:12]}", None),
    (f"/kubepods/burstable/pod{UID}/{HEX}", CONTAINER, f"k8s_{HEX[:12]}", None),
    (
        f"{BURSTABLE}/kubepods-burstable-pod{ESCAPED_UID}.slice/cri-containerd-{HEX}.scope",
        CONTAINER,
        f"k8s_{HEX[:12]}",
        None,
    ),
    (
        f"/kubepods.slice/kubepods-pod{ESCAPED_UID}.slice/docker-{HEX}.scope",
        CONTAINER,
        f"k8s_{HEX[:12]}",
        None,
    ),
    # LXC
    ("/lxc.payload.web", CONTAINER, "web", "cgroup_lxc-payload-web"),
    ("/lxc/web", CONTAINER, "lxc_web", "cgroup_lxc_web"),
    # systemd-nspawn
    (
        "/machine.slice/systemd-nspawn@my\\x2dweb.service",
        CONTAINER,
        "my-web",
        "cgroup_machine-slice_systemd-nspawn_my_x2dweb-service",
    ),
    # libvirt
    (
        "/machine.slice/machine-qemu\\x2d1\\x2dmy\\x2dvm.scope",
        CONTAINER,
        "qemu_my-vm",
        "cgroup_machine-slice_machine-qemu_x2d1_x2dmy_x2dvm-scope",
    ),
    ("/machine.slice/machine-lxc\\x2d77\\x2dweb.scope", CONTAINER, "lxc/web", None),
    ("/machine/web.libvirt-qemu", CONTAINER, "qemu_web", "cgroup_machine_web-libvirt-qemu"),
    # Proxmox
    ("/qemu.slice/104.scope", CONTAINER, "qemu_104", "cgroup_qemu-slice_104-scope"),
    # made by hand
    ("/batch", CONTAINER, "batch", "cgroup_batch"),
    ("/a/b c", CONTAINER, "a_b_c", "cgroup_a_b_c"),
]


@pytest.mark.parametrize(("path", "kind", "name", "chart"), SHOWN)
def test_services_and_containers_are_told_apart_and_named(
    path: str, kind: Kind, name: str, chart: str | None
) -> None:
    counted = counted_in(path)
    assert counted
    assert (counted.path, counted.kind) == (path, kind)
    assert name_of(path, kind) == name
    if chart:
        assert chart_type(path, kind, distinct=False) == chart


WITHOUT_CHARTS = [
    "/",
    "/init.scope",
    "/system.slice",
    "/system.slice/dev-hugepages.mount",
    "/system.slice/dbus.socket",
    "/system.slice/run-r12ab.scope",
    # a template's instances have a slice of their own
    "/system.slice/system-getty.slice/getty@tty1.service",
    "/user.slice",
    "/user.slice/user-1000.slice",
    "/user.slice/user-1000.slice/session-2.scope",
    "/user.slice/user-1000.slice/user@1000.service",
    f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{HEX}.scope",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
    "/docker",
    "/kubepods",
    "/kubepods.slice/kubepods-burstable.slice",
    f"/kubepods/burstable/pod{UID}",
    "/machine.slice",
    "/lxc.monitor.web",
    "/lxc.pivot",
]


@pytest.mark.parametrize("path", WITHOUT_CHARTS)
def test_what_is_neither_service_nor_container_has_no_charts(path: str) -> None:
    assert counted_in(path) is None


BELOW = [
    # path, where its processes are counted
    ("/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/vcpu0", "machine-qemu\\x2d1\\x2dweb.scope"),
    ("/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/emulator", "machine-qemu\\x2d1\\x2dweb.scope"),
    ("/lxc.payload.web/init.scope", "lxc.payload.web"),
    ("/lxc.payload.web/system.slice/ssh.service", "lxc.payload.web"),
    ("/lxc/web/ns/user.slice/session-1.scope", "web"),
    (f"/docker/{HEX}/init.scope", HEX),
    (f"/docker/{HEX}/system.slice/ssh.service", HEX),
    ("/system.slice/systemd-udevd.service/udev", "systemd-udevd.service"),
    ("/system.slice/a.service/b.slice/c.mount", "a.service"),
    ("/machine.slice/systemd-nspawn@web.service/payload/init.scope", "payload"),
]


@pytest.mark.parametrize(("path", "folder"), BELOW)
def test_what_has_no_charts_counts_for_the_container_or_service_it_is_in(path: str, folder: str) -> None:
    counted = counted_in(path)
    assert counted
    assert counted.path == path[: path.index(f"/{folder}") + len(folder) + 1]


HOSTILE = [
    "/a\nCHART x.y",
    "/it's",
    '/say "x"',
    "/" + "n" * 255,
    "/" + "n" * 255 + "/" + "m" * 255,
    "/caf\udce9",
    "/naïve ✓",
    "/a=b\\",
    "/machine.slice/machine-qemu\\x2d1\\x2d\\x0a\\x00\\xff.scope",
    "/{name}{hex}",
    "/.",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_no_name_gets_out_of_a_chart_type(path: str) -> None:
    counted = counted_in(path)
    assert counted
    text = chart_type(path, counted.kind, distinct=False)
    assert text.isascii()
    assert text.replace("-", "_").isidentifier()
    assert len(text) <= 120
    assert len(name_of(path, counted.kind)) <= 100


def test_containers_of_one_pod_whose_long_paths_begin_alike_have_chart_types_of_their_own() -> None:
    pod = f"{BURSTABLE}/kubepods-burstable-pod{ESCAPED_UID}.slice/cri-containerd-"
    types = {chart_type(pod + digit * 64 + ".scope", CONTAINER, distinct=False) for digit in "0123456789ab"}
    assert len(types) == 12
    assert {len(text) for text in types} == {120}


def test_digits_tell_apart_what_would_have_one_chart_type() -> None:
    plain = chart_type("/a.b", CONTAINER, distinct=False)
    assert chart_type("/a-b", CONTAINER, distinct=False) == plain
    first, second = (chart_type(path, CONTAINER, distinct=True) for path in ("/a.b", "/a-b"))
    assert len({plain, first, second}) == 3
    assert first.startswith(plain + "_")


def test_a_path_made_to_be_slow_is_named_at_once() -> None:
    path = "/" + "/".join(["kubepods-pod" * 20, "poddddd" * 36, "docker-" * 36, "ecs-" * 60])
    counted = counted_in(path + "/x.scope")
    assert counted
    assert name_of(counted.path, counted.kind)
