"""The message that announces a sample: one msgpack array.

    [version, program, generation, sequence, tick, sampled_ns, blocks, columns, gauges, names, losses]

columns: numbers of the columns that this kernel gives in this mode.
gauges: momentary values by name. names: device names by row.
sampled_ns: monotonic, taken before the first counter was read. Everything is the kernel's running value:
a message that is lost or repeated loses and doubles nothing.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import msgpack

from supervisor.errors import SupervisorError

VERSION: Final = 1
_PACKER: Final = msgpack.Packer()


class BadSample(SupervisorError):
    """The message is none of ours."""


class Sample(NamedTuple):
    program: str
    generation: int
    sequence: int
    tick: int
    sampled_ns: int
    blocks: int
    columns: tuple[int, ...]
    gauges: Mapping[str, int]
    names: Mapping[int, str]
    losses: int


def pack(sample: Sample) -> bytes:
    """Mappings must be dictionaries."""
    packed: bytes = _PACKER.pack((VERSION, *sample))
    return packed


def unpack(message: bytes) -> Sample:
    """Raises BadSample for anything that is not a sample of this version."""
    try:
        fields = msgpack.unpackb(message, strict_map_key=False)
        version, program, *numbers, columns, gauges, names, losses = fields
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise BadSample(f"not a sample: {error}") from error
    if version != VERSION:
        raise BadSample(f"sample of version {version!r}, expected {VERSION}")
    sound = (
        isinstance(program, str)
        and len(numbers) == 5
        and _naturals((*numbers, losses))
        and isinstance(columns, list)
        and _naturals(columns)
        and isinstance(gauges, dict)
        and _texts(gauges.keys())
        and _naturals(gauges.values())
        and isinstance(names, dict)
        and _naturals(names.keys())
        and _texts(names.values())
    )
    if not sound:
        raise BadSample("a field of the sample has the wrong type")
    generation, sequence, tick, sampled_ns, blocks = numbers
    return Sample(
        program, generation, sequence, tick, sampled_ns, blocks, tuple(columns), gauges, names, losses
    )


def _naturals(values: Collection[Any]) -> bool:
    """u64, each."""
    return not values or ({*map(type, values)} == {int} and min(values) >= 0 and max(values) < 1 << 64)


def _texts(values: Collection[Any]) -> bool:
    return {*map(type, values)} <= {str}
