"""What the kernel kept from a program is shown as a counter that never falls, and told once an hour."""

import logging
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from supervisor import misses
from supervisor.aggregator import board as boards
from supervisor.aggregator.board import Board
from supervisor.kernel import attach


class Clock:
    now_s = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now_s)
    return clock


def test_misses_add_up_over_kernel_objects_and_are_told_once_an_hour(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = {"fd": 0, "task": 0}
    monkeypatch.setattr(attach, "missed_by", lambda links: sum(said[str(link)] for link in links))
    units: list[Any] = [
        SimpleNamespace(name=name, hooks=[SimpleNamespace(link=name)]) for name in ("fd", "task")
    ]
    board = Board(boards.create(1), 1)
    looks = misses.Misses(board, cast(Any, units))
    caplog.set_level(logging.WARNING)

    def look(fd: int, task: int) -> list[int]:
        said.update(fd=fd, task=task)
        clock.now_s += 30
        looks.look()
        return list(board.missed)

    assert look(0, 0) == [0, 0]
    assert not caplog.records
    assert look(3, 0) == [3, 0]
    assert look(5, 7) == [5, 7]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["fd", "task"]
    assert look(0, 7) == [5, 7]  # made anew
    assert look(2, 7) == [7, 7]
    clock.now_s += 3600
    assert look(3, 7) == [8, 7]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["fd", "task", "fd"]
