"""The screen of `ebpfctl top`, by curses: a part of Python that knows every terminal that ssh comes from."""

import contextlib
import curses
import locale
from collections.abc import Callable

Draw = Callable[[int, int], list[str]]


def possible() -> bool:
    """Whether this terminal can be drawn on."""
    try:
        curses.setupterm()
    except curses.error:
        return False
    return curses.tigetstr("cup") is not None


def run(draw: Draw, every_s: float) -> None:
    """Draws anew each `every_s` seconds until q is pressed. draw: takes width and height, gives the lines.
    What it raises comes out once the terminal is as it was."""
    locale.setlocale(locale.LC_ALL, "")
    curses.wrapper(_loop, draw, every_s)


def _loop(window: "curses.window", draw: Draw, every_s: float) -> None:
    with contextlib.suppress(curses.error):  # a terminal that cannot hide its cursor
        curses.curs_set(0)
    window.timeout(round(1000 * every_s))
    while True:
        height, width = window.getmaxyx()
        window.erase()
        for number, line in enumerate(draw(width - 1, height)):
            with contextlib.suppress(curses.error):  # the window has become smaller meanwhile
                window.addstr(number, 0, line.encode(errors="replace").decode()[: width - 1])
        window.refresh()
        if window.getch() in (ord("q"), ord("Q")):
            return
