"""The tables that people read: of `status`, and of hooks. They need the answer only, no supervisor."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

COLUMNS: Final = (
    "NAME",
    "STATE",
    "PID",
    "UPTIME",
    "RESTARTS",
    "RATE",
    "CPU%",
    "RSS",
    "KERNEL",
    "DESCRIPTION",
)
# Columns of a screen that all lines of `status` fit on.
_SCREEN: Final = 120
# A longer cell moves the rest of its own line, and not that of all others: most lines of hooks fit too.
_WIDEST: Final = 24


def table(answer: Mapping[str, Any], verbose: bool) -> str:
    """The table that `ebpfctl status` prints; when verbose uncut, and with the hooks below it."""
    text = _aligned([COLUMNS, *(_row(program) for program in answer["programs"])])
    if verbose:
        return text + hooks_table(answer["programs"])
    return "".join(f"{_cut(line)}\n" for line in text.splitlines())


def _cut(line: str) -> str:
    return line if len(line) <= _SCREEN else f"{line[: _SCREEN - 1]}…"


def _row(program: Mapping[str, Any]) -> tuple[str, ...]:
    alive = program["pid"] is not None
    uptime_s = program["uptime_s"]
    share = 100 * program["cpu_s"] / uptime_s if alive and uptime_s else 0.0
    return (
        program["name"],
        program["state"],
        str(program["pid"]) if alive else "-",
        duration(uptime_s) if alive else "-",
        str(program["restarts"]),
        f"{program['rate']:.0f}/s" if alive else "-",
        f"{share:.1f}" if alive else "-",
        size(program["rss_bytes"]) if alive else "-",
        size(program["kernel_bytes"]) if program["kernel_bytes"] else "-",
        program["description"],
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column if len(cell) <= _WIDEST) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def changes(answer: Mapping[str, Any]) -> str:
    """What `ebpfctl reload` prints: every change, and below it what has not come to run."""
    if not answer["changes"]:
        return "nothing has changed\n"
    rows = [("PROGRAMS", "KEY", "FROM", "TO", "EFFECT")]
    rows += [(c["programs"], c["key"], c["from"], c["to"], c["effect"]) for c in answer["changes"]]
    unwell = [p for p in answer["programs"] if p["state"] not in ("RUNNING", "STOPPED")]
    return _aligned(rows) + "".join(f"{p['name']}: {p['state']}: {p['description']}\n" for p in unwell)


def hooks_table(programs: Sequence[Mapping[str, Any]]) -> str:
    rows = [("PROGRAM", "HOOK", "PLAN", "TARGET", "ATTACHED", "REMARK")]
    rows += [
        (
            p["name"],
            h["hook"],
            h["plan"] or "-",
            h["target"] or "-",
            "yes" if h["attached"] else "no",
            _remark(h),
        )
        for p in programs
        for h in p["hooks"]
    ]
    return "\n" + _aligned(rows)


def _remark(hook: Mapping[str, Any]) -> str:
    """Why it is not attached; of what is, how many hits the kernel missed. A kretprobe can always miss some
    (it has room for so many calls at once), so it says too when they are not told: by kernels before 6.7, and
    of probes that are no links (Target.at_once)."""
    missed = hook.get("missed")
    if missed or (missed is not None and hook["plan"] == "kretprobe"):
        return f"missed hits: {missed}"
    if hook["attached"] and hook["plan"] == "kretprobe" and "missed" in hook:
        return "missed hits: not told for such a probe here"
    return str(hook["reason"])


def duration(seconds: float) -> str:
    """1:02:03, or days before it."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{rest_s:02}"
    return f"{days}d {clock}" if days else clock


def size(amount_bytes: int) -> str:
    """In MB with one decimal below 10, as ps and top users read it."""
    megabytes = amount_bytes / 1e6
    return f"{megabytes:.1f}MB" if megabytes < 10 else f"{megabytes:.0f}MB"
