"""How a loader hands its kernel objects to the supervisor: msgpack messages and SCM_RIGHTS on a
SOCK_SEQPACKET pair, so that a message is whole or absent.

    {"maps": [[name, entries, value_bytes, flags], …], "links": n,
     "hooks": [[hook, plan, target, attached, reason, link], …], "error": "", "lines": ""}
    with the descriptors of the maps, then those of the attachments, in that order; a hook's link is the place
    of its attachment among them

The kernel takes 253 descriptors in one message (SCM_MAX_FD); more follow in messages of their own.
"""

import os
import socket
from dataclasses import dataclass, field
from typing import Final

import msgpack

from supervisor.errors import SupervisorError
from supervisor.kernel.maps import KernelMap, MapInfo
from supervisor.kernel.plans import HookReport

_FDS_PER_MESSAGE: Final = 253
_MESSAGE_BYTES: Final = 1 << 18


@dataclass(frozen=True)
class Loaded:
    """What one loader has made. The holder of the descriptors owns the kernel objects: closing them all
    detaches and frees everything but lines of kprobe_events, whose names begin with `lines` ("" = none)."""

    maps: dict[str, KernelMap] = field(default_factory=dict)
    links: list[int] = field(default_factory=list)
    hooks: list[HookReport] = field(default_factory=list)
    error: str = ""
    lines: str = ""

    def close(self) -> None:
        for fd in [*self.links, *(held.fd for held in self.maps.values())]:
            os.close(fd)


def send(channel: socket.socket, loaded: Loaded) -> None:
    """Raises OSError when the supervisor has gone, or the report is too long for a message."""
    fds = [held.fd for held in loaded.maps.values()] + loaded.links
    head = {
        "maps": [
            [m.info.name, m.info.entries, m.info.value_bytes, m.info.flags] for m in loaded.maps.values()
        ],
        "links": len(loaded.links),
        "hooks": [
            [h.hook, h.plan, h.target, h.attached, h.reason, None if h.link is None else fds.index(h.link)]
            for h in loaded.hooks
        ],
        "error": loaded.error,
        "lines": loaded.lines,
    }
    socket.send_fds(channel, [msgpack.packb(head)], fds[:_FDS_PER_MESSAGE])
    for start in range(_FDS_PER_MESSAGE, len(fds), _FDS_PER_MESSAGE):
        socket.send_fds(channel, [b"+"], fds[start : start + _FDS_PER_MESSAGE])


def receive(channel: socket.socket) -> Loaded | None:
    """The loader's report, None when it ended without one. Raises SupervisorError for an unusable one."""
    head, fds = _receive(channel)
    if not head:
        return None
    try:
        return _decode(channel, head, fds)
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        for fd in fds:
            os.close(fd)
        raise SupervisorError(f"the loader's report cannot be read: {error}") from error


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    data, fds, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, _FDS_PER_MESSAGE)
    for fd in fds:
        os.set_inheritable(fd, False)
    return data, fds


def _decode(channel: socket.socket, head: bytes, fds: list[int]) -> Loaded:
    report = msgpack.unpackb(head)
    infos = [MapInfo(*entry) for entry in report["maps"]]
    expected = len(infos) + report["links"]
    while len(fds) < expected:
        data, more = _receive(channel)
        if not data:
            raise ValueError(f"{len(fds)} of {expected} descriptors came")
        fds += more
    if len(fds) != expected:
        raise ValueError(f"{len(fds)} descriptors came, {expected} were announced")
    maps = {info.name: KernelMap(info, fd) for info, fd in zip(infos, fds, strict=False)}
    hooks = [
        HookReport(hook, plan, target, attached, reason, None if link is None else fds[link])
        for hook, plan, target, attached, reason, link in report["hooks"]
    ]
    return Loaded(maps, fds[len(infos) :], hooks, report["error"], report["lines"])
