r"""What a cgroup is and what it is called, from its path alone.

Netdata's cgroups.plugin decides this by simple patterns and by a script; the patterns are its defaults. A
cgroup is a systemd service, a container (or virtual machine), or neither. What is neither has no charts of
its own: its processes are counted in the nearest cgroup above it that has. So the threads of a virtual
machine (`…/machine-qemu\x2d1\x2dweb.scope/libvirt/vcpu0`) count for the machine, and all that runs in an
LXC container for the container. Netdata reads the one folder only, and shows nothing there.

A path begins with `/` at the root of the hierarchy, and can hold any bytes (os.fsdecode).
"""

import enum
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from supervisor.aggregator.simple_patterns import SimplePattern
from supervisor.aggregator.stream import clean_id

# Defaults of [plugin:cgroups] in netdata.conf, unchanged from 1.34 to 1.43.
_DESCEND: Final = SimplePattern(
    "!*/init.scope !*-qemu !*.libvirt-qemu !/init.scope !/system !/systemd !/user !/user.slice "
    "!/lxc/*/* !/lxc.monitor !/lxc.payload/*/* !/lxc.payload.* *"
)
_SERVICES: Final = SimplePattern("!/system.slice/*/*.service /system.slice/*.service")
_CONTAINERS: Final = SimplePattern(
    "!*/init.scope !/system.slice/run-*.scope *.scope /machine.slice/*.service "
    "*/kubepods/pod*/* */kubepods/*/pod*/* */*-kubepods-pod*/* */*-kubepods-*-pod*/* !*kubepods* !*kubelet* "
    "!*/vcpu* !*/emulator !*.mount !*.partition !*.service !*.service/udev !*.socket !*.slice !*.swap "
    "!*.user !/ !/docker !*/libvirt !/lxc !/lxc/*/* !/lxc.monitor* !/lxc.pivot !/lxc.payload !/machine "
    "!/qemu !/system !/systemd !/user *"
)
_RENAMED: Final = SimplePattern(
    "!/ !*.mount !*.socket !*.partition /machine.slice/*.service !*.service !*.slice !*.swap !*.user "
    "!init.scope !*.scope/vcpu* !*.scope/emulator *.scope *docker* *lxc* *qemu* "
    "*/kubepods/pod*/* */kubepods/*/pod*/* */*-kubepods-pod*/* */*-kubepods-*-pod*/* !*kubepods* !*kubelet* "
    "*.libvirt-qemu *"
)

_HEX_ID: Final = r"(?P<hex>[0-9a-fA-F]{64}|[0-9a-fA-F]{12})(?![0-9a-fA-F])"
# Tried in this order, as by cgroup-name.sh, as far as the path tells: pattern, and what the name is. `hex` is
# the id of a container, of which 12 digits are shown, as by `docker ps`; escapes of systemd are taken off
# `name`. Names that only Docker, Podman, Kubernetes or Proxmox know are not asked for.
_NAMES: Final = tuple(
    (re.compile(pattern), template)
    for pattern, template in (
        (rf"^(?=.*kubepods).*pod[^/]*/(?:[a-z-]{{0,20}}-)?{_HEX_ID}(?:\.scope)?\Z", "k8s_{hex}"),
        (rf"docker[-_/.]{_HEX_ID}", "{hex}"),
        (rf"^/ecs/(?:[^/]+/)*(?:[^/]+-)?{_HEX_ID}\Z", "{hex}"),
        (rf"^/system\.slice/containerd\.service/cpuset/{_HEX_ID}", "{hex}"),
        (rf"libpod-(?:conmon-)?{_HEX_ID}", "{hex}"),
        (rf"(?:nerdctl|cri-containerd|crio)-{_HEX_ID}\.scope\Z", "{hex}"),
        (r"^/machine\.slice/systemd-nspawn@(?P<name>[^/]+)\.service\Z", "{name}"),
        (r"^/machine\.slice/(?P<name>[^/]+)\.service\Z", "{name}"),
        (r"^/machine\.slice/machine-lxc(?:\\x2d|-)\d+(?:\\x2d|-)(?P<name>[^/]+)\.scope", "lxc/{name}"),
        (r"^/machine\.slice/machine-qemu(?:\\x2d|-)\d+(?:\\x2d|-)(?P<name>[^/]+)\.scope", "qemu_{name}"),
        (r"^/machine/(?P<name>[^/]+)\.libvirt-qemu", "qemu_{name}"),
        (r"^/qemu\.slice/(?P<name>\d+)\.scope", "qemu_{name}"),
        (r"^/lxc\.payload\.(?P<name>[^/]+)", "{name}"),
    )
)
_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})")
_SHOWN_HEX_DIGITS: Final = 12
_NAME_LENGTH: Final = 100
_DIGEST_DIGITS: Final = 12


class Kind(enum.Enum):
    SERVICE = "service"
    CONTAINER = "container"


@dataclass(frozen=True)
class Counted:
    """Where the processes of a cgroup are counted: the path of a service or container."""

    path: str
    kind: Kind


def kind_of(path: str) -> Kind | None:
    """None for what has no charts: slices, sessions, mounts, the root."""
    if _SERVICES.matches(path):
        return Kind.SERVICE
    return Kind.CONTAINER if _CONTAINERS.matches(path) else None


def counted_in(path: str) -> Counted | None:
    """The cgroup itself or the nearest above it that has charts, None when none has.

    What lies below a folder that Netdata does not look into is counted as if it were in that folder.
    """
    folders = []
    for folder in _from_the_root(path):
        folders.append(folder)
        if not _DESCEND.matches(folder):
            break
    for folder in reversed(folders):
        kind = kind_of(folder)
        if kind:
            return Counted(folder, kind)
    return None


def name_of(path: str, kind: Kind) -> str:
    """What people call it; not unique. It can hold anything but spaces."""
    if kind is Kind.SERVICE:
        return path.rsplit("/", 1)[1].rsplit(".", 1)[0]
    name = (_known_name(path) if _RENAMED.matches(path) else None) or path.removeprefix("/").replace("/", "_")
    return name[:_NAME_LENGTH].replace(" ", "_")


def chart_type(path: str, kind: Kind, *, distinct: bool) -> str:
    """The chart type of a container (`cgroup_docker_3f…`) or service (`systemd_ssh`); also the id of a
    service's dimension. Safe in a chart's id.

    Different paths can give the same. `distinct` adds some digits made from the path; so does a text that has
    to be cut.
    """
    text = f"systemd_{name_of(path, kind)}" if kind is Kind.SERVICE else f"cgroup_{path.removeprefix('/')}"
    text = text.replace(".", "-")
    cleaned = clean_id(text)
    if len(cleaned) == len(text) and not distinct:
        return cleaned
    digits = digest(path)
    # Made longer first, so that what is cut off shows how long an id may be.
    longest = len(clean_id(text + "_" + digits))
    return f"{cleaned[: longest - len(digits) - 1]}_{digits}"


def digest(path: str) -> str:
    """Some digits that tell paths apart, the same in every run."""
    import hashlib  # with OpenSSL's libraries, which all processes would have for the sake of rare names

    return hashlib.blake2b(os.fsencode(path)).hexdigest()[:_DIGEST_DIGITS]


def _from_the_root(path: str) -> Iterator[str]:
    """`/`, `/a`, `/a/b` for `/a/b`."""
    yield "/"
    end = path.find("/", 1)
    while end > 0:
        yield path[:end]
        end = path.find("/", end + 1)
    if path != "/":
        yield path


def _known_name(path: str) -> str | None:
    for pattern, template in _NAMES:
        found = pattern.search(path)
        if found:
            known = found.groupdict("")
            return template.format(
                hex=known.get("hex", "")[:_SHOWN_HEX_DIGITS],
                name=_without_escapes(known.get("name", "")),
            )
    return None


def _without_escapes(name: str) -> str:
    r"""`my\x2dvm` is my-vm (systemd.unit(5))."""
    return os.fsdecode(_ESCAPED.sub(lambda code: bytes([int(code[1], 16)]), os.fsencode(name)))
