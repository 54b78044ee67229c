"""hardirq: time spent in hard interrupts, by vector of the processor and by interrupt of a device."""

from collections.abc import Iterator, Mapping
from typing import Final

from supervisor import linux
from supervisor.kernel.maps import WORD_BYTES, Maps
from supervisor.kernel.plans import Hook, Plan, Target
from workers.declaration import Column, Program

# Events of irq_vectors, which x86 has, and what they are called in the chart, in the order of their rows.
VECTORS: Final[Mapping[str, str]] = {
    "thermal_apic": "apic_thermal",
    "threshold_apic": "apic_threshold",
    "error_apic": "apic_error",
    "deferred_error_apic": "apic_deferred_error",
    "spurious_apic": "apic_spurious",
    "call_function": "func_call",
    "call_function_single": "func_call_single",
    "reschedule": "reschedule",
    "local_timer": "local_timer",
    "irq_work": "irq_work",
    "x86_platform_ipi": "x86_platform_ipi",
}
INTERRUPTS: Final = 1024
_NAME_CHARACTERS: Final = 31

_ACTIONS: Final = "/sys/kernel/irq/{}/actions"


def _hook(name: str, entered: Target, left: Target) -> Hook:
    plans = (Plan("raw tracepoint", (entered, left)),)
    return Hook(name, plans, plans)


def _vector(row: int, event: str) -> Hook:
    return _hook(
        event,
        Target(f"irq_vectors:{event}_entry", "on_vector_entry", str(row)),
        Target(f"irq_vectors:{event}_exit", "on_vector_exit", str(row)),
    )


_DEVICE: Final = _hook(
    "device",
    Target("irq:irq_handler_entry", "on_handler_entry"),
    Target("irq:irq_handler_exit", "on_handler_exit", "args[0]"),
)


def _names(maps: Maps, hooks: frozenset[str]) -> Mapping[int, str]:
    """The vectors that are seen, and the devices' interrupts that have come and still have a handler."""
    names = {row: name for row, (event, name) in enumerate(VECTORS.items()) if event in hooks}
    with maps["spent"].open() as content:
        spent = bytes(content.bytes[len(VECTORS) * WORD_BYTES : -WORD_BYTES]).rstrip(b"\0")
    # The last word lacks its zeros.
    words = memoryview(spent.ljust(-(-len(spent) // WORD_BYTES) * WORD_BYTES, b"\0")).cast("Q")
    came = [irq for irq, ns in enumerate(words) if ns]
    names.update((len(VECTORS) + irq, name) for irq, name in _devices(came))
    return names


def _devices(numbers: list[int]) -> Iterator[tuple[int, str]]:
    for irq in numbers:
        handlers = actions(irq)
        if handlers:
            yield irq, device_name(irq, handlers)


def actions(irq: int) -> str:
    """Names of the handlers of an interrupt, "" where it has none now (sysfs, kernel 4.9 on)."""
    try:
        return linux.read_small(_ACTIONS.format(irq)).decode().strip()
    except FileNotFoundError:
        return ""


def device_name(irq: int, handlers: str) -> str:
    """The number and the last word of what /proc/interrupts says, which are the names of the handlers."""
    return f"{irq}_{handlers.replace(',', ' ').split()[-1]}"[:_NAME_CHARACTERS]


def _losses(maps: Maps) -> int:
    """Interrupts with numbers beyond those that are told apart."""
    with maps["spent"].open() as content:
        return int(content.words[len(VECTORS) + INTERRUPTS])


PROGRAM = Program(
    name="hardirq",
    source="hardirq.bpf.c",
    hooks=(_DEVICE, *(_vector(row, event) for row, event in enumerate(VECTORS))),
    columns=(Column("ns", "device"),),
    kind="device",
    rows=len(VECTORS) + INTERRUPTS,
    table="spent",
    maps=("spent",),
    names=_names,
    losses=_losses,
    of_time=True,
)
