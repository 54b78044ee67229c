"""The tables that people read: of `status`, and of hooks. They need the answer only, no supervisor."""

import textwrap
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
# Columns of a screen that all lines of `status` fit on; those of `status -v` and of `check` take fewer.
_SCREEN: Final = 120
SCREEN: Final = 100
# A longer cell moves the rest of its own line, and not that of all others.
_WIDEST: Final = 24
# A remark is set beside its hook where it has so much room, else below it.
_REMARK: Final = 30
_BELOW: Final = " " * 6


def table(answer: Mapping[str, Any], verbose: bool) -> str:
    """The table that `ebpfctl status` prints; when verbose, all that is known of each program below it, and
    of the identities where no program was asked for by name."""
    programs = answer["programs"]
    if verbose:
        identities = [answer["identities"]] if "identities" in answer else []
        return f"{_overall(answer)}\n{_rows(programs, SCREEN)}{hooks_table([*identities, *programs])}"
    return _rows(programs, _SCREEN)


def _rows(programs: Sequence[Mapping[str, Any]], columns: int) -> str:
    text = _aligned([COLUMNS, *(_row(program) for program in programs)])
    return "".join(f"{_cut(line, columns)}\n" for line in text.splitlines())


def _overall(answer: Mapping[str, Any]) -> str:
    aggregator, main = answer["aggregator"], answer["supervisor"]
    return _wrapped(
        f"ebpf-supervisor {answer['version']} on {answer['kernel']}: up {duration(answer['uptime_s'])}, "
        f"{answer['frames']} frames, {size(answer['kernel_bytes'])} of kernel memory; "
        f"supervisor {main['pid']} ({size(main['rss_bytes'])}); "
        f"aggregator {aggregator['state']} {aggregator['pid'] or '-'} ({size(aggregator['rss_bytes'])}), "
        f"{_counted(aggregator['restarts'], 'restart')}",
        "",
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _wrapped(text: str, indent: str, first: str = "") -> str:
    """Lines that fit, the further ones indented."""
    lines = textwrap.wrap(
        text, SCREEN, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    )
    return "".join(f"{line}\n" for line in lines)


def _cut(line: str, columns: int) -> str:
    return line if len(line) <= columns else f"{line[: columns - 1]}…"


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
    widths = _widths(rows)
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column if len(cell) <= _WIDEST) for column in zip(*rows, strict=True)]


def changes(answer: Mapping[str, Any]) -> str:
    """What `ebpfctl reload` prints: every change, and below it what has not come to run."""
    if not answer["changes"]:
        return "nothing has changed\n"
    rows = [("PROGRAMS", "KEY", "FROM", "TO", "EFFECT")]
    rows += [(c["programs"], c["key"], c["from"], c["to"], c["effect"]) for c in answer["changes"]]
    unwell = [p for p in answer["programs"] if p["state"] not in ("RUNNING", "STOPPED")]
    return _aligned(rows) + "".join(f"{p['name']}: {p['state']}: {p['description']}\n" for p in unwell)


def hooks_table(programs: Sequence[Mapping[str, Any]]) -> str:
    """Of each program what is known of it in words, and its hooks: plan by plan, with what is against it."""
    return "".join(f"\n{_head(program)}{_hooks(program['hooks'])}" for program in programs)


def _head(program: Mapping[str, Any]) -> str:
    said = [program["name"], program.get("state"), program.get("description") or program.get("reason")]
    head = ": ".join(filter(None, said))
    if program.get("pid") is not None:
        head += f"; {_counted(program['samples'], 'sample')}, {program['dropped']} dropped"
    return _wrapped(head, "    ")


def _hooks(hooks: Sequence[Mapping[str, Any]]) -> str:
    if not hooks:
        return ""
    rows = [("HOOK", "PLAN", "TARGET", "ATTACHED", "REMARK")]
    rows += [
        (h["hook"], h["plan"] or "-", h["target"] or "-", "yes" if h["attached"] else "no", _remark(h))
        for h in hooks
    ]
    widths = _widths(rows)[:-1]
    return "".join(_hook_lines(row[:-1], widths, row[-1]) for row in rows)


def _hook_lines(cells: Sequence[str], widths: Sequence[int], remark: str) -> str:
    line = "".join(f"  {cell.ljust(width)}" for cell, width in zip(cells, widths, strict=True)) + "  "
    room = SCREEN - len(line)
    if len(remark) <= room:
        return f"{line}{remark}".rstrip() + "\n"
    if room < _REMARK:
        return line.rstrip() + "\n" + _wrapped(remark, _BELOW, _BELOW)
    first, *further = textwrap.wrap(remark, room, break_on_hyphens=False)
    return f"{line}{first}\n" + "".join(f"{' ' * len(line)}{more}\n" for more in further)


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
