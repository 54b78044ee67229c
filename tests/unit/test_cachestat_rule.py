"""What a second's pages come to: hits and misses, by the rule of workers/cachestat.py."""

import numpy as np
import pytest

from workers.cachestat import PROGRAM


def hits_and_misses(accessed: int, buffers: int, added: int, written: int) -> tuple[int, int]:
    assert PROGRAM.derived
    assert list(PROGRAM.derived.names) == ["hits", "misses"]
    sample = np.array([[accessed, buffers, added, written]], np.uint64)
    hits, misses = PROGRAM.derived.work_out(sample)[0].tolist()
    return hits, misses


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ((100, 0, 100, 0), (0, 100)),  # read cold
        ((100, 0, 0, 0), (100, 0)),  # read warm
        ((0, 100, 100, 100), (0, 0)),  # a new file written
        ((0, 0, 64, 0), (0, 64)),  # touched where it is mapped, or read ahead
        ((100, 0, 64, 0), (36, 64)),
    ],
)
def test_a_page_is_a_miss_if_it_was_added_to_be_read_and_a_hit_if_it_was_there(
    sample: tuple[int, int, int, int], expected: tuple[int, int]
) -> None:
    assert hits_and_misses(*sample) == expected


def test_writing_takes_nothing_off_the_hits_of_the_same_second() -> None:
    assert hits_and_misses(100, 400, 400, 400) == (100, 0)


def test_a_page_added_in_one_second_and_written_to_in_the_next_is_no_negative_miss() -> None:
    assert hits_and_misses(0, 1, 0, 1) == (0, 0)
