"""The message that announces a sample: there and back, and 20,000 others that are none."""

import random
from typing import Any

import msgpack
import pytest

from supervisor.pipeline.sample import VERSION, BadSample, Sample, pack, unpack

SAMPLE = Sample(
    program="fd",
    generation=2,
    sequence=17,
    tick=1234,
    sampled_ns=5_000_000_000,
    blocks=3,
    columns=(0, 2, 3),
    gauges={"process": 5, "zombie": 0},
    names={1: "vda", 255: "cciss!c0d0"},
    losses=9,
)


def fields_of(sample: Sample = SAMPLE) -> list[Any]:
    fields: list[Any] = msgpack.unpackb(pack(sample), strict_map_key=False)
    return fields


def verdict(message: bytes) -> Sample | None:
    """The sample; None for a message that is refused as it should be. Any other exception is a failure."""
    try:
        return unpack(message)
    except BadSample:
        return None


def is_sound(sample: Sample) -> bool:
    numbers = [
        sample.generation,
        sample.sequence,
        sample.tick,
        sample.sampled_ns,
        sample.blocks,
        sample.losses,
    ]
    numbers += [*sample.columns, *sample.gauges.values(), *sample.names]
    return (
        isinstance(sample.program, str)
        and all(type(value) is int and 0 <= value < 1 << 64 for value in numbers)
        and all(isinstance(text, str) for text in [*sample.gauges, *sample.names.values()])
    )


def test_there_and_back() -> None:
    assert unpack(pack(SAMPLE)) == SAMPLE
    empty = SAMPLE._replace(columns=(), gauges={}, names={}, program="")
    assert unpack(pack(empty)) == empty


@pytest.mark.parametrize("place", range(11))
@pytest.mark.parametrize(
    "value",
    [-1, 1.5, True, "", "text", b"fd", [], [[]], {}, {"a": "b"}, {-1: "vda"}, {True: "vda"}, {1: 2}, None],
    ids=repr,
)
def test_a_field_of_another_kind_is_refused_and_nothing_worse(place: int, value: Any) -> None:
    fields = fields_of()
    fields[place] = value
    sample = verdict(msgpack.packb(fields))
    assert sample is None or is_sound(sample)


@pytest.mark.parametrize("version", [0, VERSION + 1, "1", None, [1], -1])
def test_another_version_is_refused_by_name(version: Any) -> None:
    with pytest.raises(BadSample, match="version"):
        unpack(msgpack.packb([version, *fields_of()[1:]]))


@pytest.mark.parametrize("count", [*range(11), 12, 30])
def test_too_few_fields_and_too_many_are_refused(count: int) -> None:
    fields = (fields_of() * 3)[:count]
    assert verdict(msgpack.packb(fields)) is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\xff" * 40,
        b"\x91" * 100_000,  # nested deeper than any parser goes
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1 elements that are not there
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        msgpack.packb(None),
        msgpack.packb(5),
        msgpack.packb("fd"),
        msgpack.packb({"version": 1}),
        msgpack.packb({1: 1, 2: 2}),
        pack(SAMPLE) + b"\x00",
        pack(SAMPLE)[:-1],
        msgpack.packb(msgpack.ExtType(5, b"x")),
        b"\xd6\xff\xff\xff\xff\xff",  # a time stamp
        b"\xc7\x0c\xff" + b"\xff" * 12,  # one beyond any calendar
        b"\x81\x90\x00",  # a list as a key
    ],
    ids=lambda message: message[:8].hex(),
)
def test_what_is_no_sample_is_refused(message: bytes) -> None:
    assert verdict(message) is None


def mutated(chance: random.Random) -> bytes:
    """A sample with a few bytes changed, taken out or put in, or cut off."""
    message = bytearray(pack(SAMPLE))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(message) + 1)
        kind = chance.randrange(4)
        if kind == 0 and at < len(message):
            message[at] = chance.randrange(256)
        elif kind == 1:
            message[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 2:
            del message[at : at + chance.randrange(4)]
        elif at < len(message):
            message[at] ^= 1 << chance.randrange(8)
    return bytes(message[: chance.randrange(len(message) + 1)] if chance.random() < 0.05 else message)


def test_20000_damaged_messages_are_samples_or_refused_and_nothing_else() -> None:
    chance = random.Random(20000)
    refused = 0
    for number in range(20_000):
        message = mutated(chance) if number % 4 else chance.randbytes(chance.randrange(60))
        sample = verdict(message)
        if sample is None:
            refused += 1
        else:
            assert is_sound(sample), message.hex()
    assert 10_000 < refused < 20_000
