"""The matrix of what tests have shown."""

from tests.coverage_matrix import Cell, lack
from workers import registry

CACHESTAT = registry.find("cachestat")
CELL = Cell(
    attached={"buffer dirty": "tracepoint"},
    reasons={"access": ["no such tracepoint"], "add": ["no such function"], "dirty": ["no such function"]},
)


def test_what_is_worked_out_lacks_what_it_is_worked_out_from() -> None:
    assert lack(CACHESTAT, CELL, "accessed", "entry") == "no such tracepoint"
    assert lack(CACHESTAT, CELL, "misses", "entry") == "no such function"
    assert lack(CACHESTAT, CELL, "hits", "entry") == "no such tracepoint"
    assert lack(CACHESTAT, CELL, "ratio", "entry") == "no such tracepoint"


def test_what_is_there_lacks_nothing() -> None:
    assert lack(CACHESTAT, CELL, "buffer_dirtied", "entry") == ""
