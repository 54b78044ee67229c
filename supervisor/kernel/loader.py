"""The loader: compiles one program with BCC, attaches it by the best plan that really works, hands all
descriptors over, and ends, so that LLVM's memory goes with it.

It runs as root in a process and a mount namespace of its own: the tracefs and bpffs that BCC needs are
mounted there, out of everybody's sight, and are gone with the process however it ends.
"""

import errno
import os
import socket
from collections.abc import Mapping
from typing import Final

from supervisor import linux
from supervisor.errors import Unavailable
from supervisor.kernel import handover, libbcc, namespace, source, symbols, system_calls
from supervisor.kernel.candidates import candidates
from supervisor.kernel.handover import Loaded
from supervisor.kernel.hooks import Attacher
from supervisor.kernel.maps import KernelMap
from supervisor.kernel.request import Request, Tables

PINS: Final = namespace.BPFFS


def run(channel: socket.socket, request: Request) -> int:
    """Main function of a loader process."""
    try:
        loaded = load(request)
    except Unavailable as error:
        loaded = Loaded(error=str(error))
    except PermissionError as error:
        loaded = Loaded(error=f"{error.strerror} ({errno.errorcode[error.errno or 0]})")
    handover.send(channel, loaded)
    return 0


def load(request: Request) -> Loaded:
    """Compiles, loads and attaches. Raises Unavailable with the reason when the kernel or the
    compiler refuses all of it; a hook that cannot be had is a report in the result."""
    _enter_namespace()
    symbols.shorten_kallsyms()
    _pin(request.shared)
    os.environ["BCC_KERNEL_SOURCE"] = str(source.SOURCES)
    plans, missing = candidates(request)
    bits = system_calls.number_plans(plans)
    text, flags = source.text(request, plans, bits), source.flags(request, plans, bits)
    module = libbcc.compiled(request.source, text, flags)
    maps = libbcc.maps(module, request.shared)
    tables = Tables({**request.shared, **maps})
    if request.prepare:
        request.prepare(tables)
    attacher = Attacher(module, request, tables, bits)
    reports = missing + attacher.attach_hooks(plans)
    order = [hook.name for hook in request.hooks]
    reports.sort(key=lambda report: order.index(report.hook))
    if request.finish:
        request.finish(tables)
    # The mask is this loader's alone: another part of the program has its own.
    kept = {name: held for name, held in maps.items() if name != system_calls.MASK}
    return Loaded(kept, attacher.links, reports, lines=attacher.mark_of_lines)


def _enter_namespace() -> None:
    """A mount namespace of our own, with tracefs and an empty bpffs."""
    try:
        namespace.enter()
    except OSError as error:
        raise Unavailable(f"no private mount namespace with tracefs and bpffs: {error}") from error


def _pin(shared: Mapping[str, KernelMap]) -> None:
    """BCC takes over maps of another process by a pinned path only."""
    try:
        for name, held in shared.items():
            linux.bpf_pin(held.fd, str(PINS / name))
    except OSError as error:
        raise Unavailable(f"cannot share the identity maps: {error.strerror}") from error
