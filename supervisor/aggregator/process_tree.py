"""Which application group each process is counted in, kept up to date as processes come, change and go.

A process whose name matches a word has that group. Any other has the group of its nearest ancestor that has
one, and `other` when there is none. Pid 0 and pid 1 are always `other` and give nothing down, so a word for
systemd does not gather the host. Pid 2 is like any, so a word for kthreadd gathers the kernel threads.

apps.plugin works from scans of /proc. Both agree about real processes, but for what follows from scans:

* In its first scan, and in no other, a process without a group is counted in that of a child, and so are its
  other children. Later everybody has a group already, if only `other`. Here a group never rises, so that a
  new start changes no group, and every event belongs to the process that made it.
* A process that takes a name that no word matches keeps there what it had. So it depends on when it was
  looked at: between fork and exec a child of systemd is called systemd. Here only its name now counts.
* A process whose parent has ended keeps the group it had from that parent and hands it on. There it does too,
  if it was seen before its parent ended.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from supervisor.aggregator.apps_groups import AppsGroups

ALWAYS_OTHER: Final = frozenset({0, 1})


@dataclass(eq=False, slots=True)
class _Process:
    key: int
    pid: int
    own: int | None  # the group that its name matches
    inherited: int  # the group of its parent, kept when the parent ends; `other` without one
    parent: "_Process | None"  # None when it has ended or was never known
    children: "set[_Process]" = field(default_factory=set)
    reported: int | None = None

    @property
    def group(self) -> int:
        return self.inherited if self.own is None else self.own


class ProcessTree:
    """The group of every live process, by the caller's own key for it. Any other key is a KeyError.

    `cmdline` gives the command line of a pid. Where it raises OSError the process name stands in.
    """

    def __init__(self, groups: AppsGroups, cmdline: Callable[[int], str]) -> None:
        self._groups = groups
        self._cmdline = cmdline
        self._by_key: dict[int, _Process] = {}
        self._by_pid: dict[int, _Process] = {}
        self._changed: set[_Process] = set()  # since the last `regrouped`

    def born(self, key: int, pid: int, ppid: int, comm: str, inherited: int | None = None) -> None:
        """Take in a new process. Its parent is looked up now, so parents must be reported first.

        A pid that another key has belongs to the new process from here on. A key still in use ends first.
        `inherited` is what it had, before a restart, from a parent that is not known any more; else unused.
        """
        if key in self._by_key:
            self.ended(key)
        parent = self._by_pid.get(ppid) if ppid != pid else None
        above = parent.group if parent else inherited
        if above is None:
            above = self._groups.other_index
        process = _Process(key, pid, self._match(pid, comm), above, parent)
        if parent:
            parent.children.add(process)
        self._by_key[key] = self._by_pid[pid] = process
        self._changed.add(process)

    def renamed(self, key: int, comm: str) -> None:
        """Match the process anew; worth calling after an exec too, since the command line is read again."""
        process = self._by_key[key]
        process.own = self._match(process.pid, comm)
        self._hand_down(process)

    def freed(self, key: int) -> None:
        """Note that the process has gone, while its events are still counted: its id may be another one's,
        who need not be known here, and whose children are not its own."""
        process = self._by_key[key]
        if self._by_pid.get(process.pid) is process:
            del self._by_pid[process.pid]

    def ended(self, key: int) -> None:
        """Forget a process. Its children keep what they have from it."""
        self.freed(key)
        process = self._by_key.pop(key)
        self._changed.discard(process)
        if process.parent:
            process.parent.children.remove(process)
        for child in process.children:
            child.parent = None

    def group_of(self, key: int) -> int:
        """Give the index of the group in which the process is counted now."""
        return self._by_key[key].group

    def has_own(self, key: int) -> bool:
        """Say whether the group is that of the process's own name, and not handed down to it."""
        return self._by_key[key].own is not None

    def regrouped(self) -> list[tuple[int, int]]:
        """Give key and group of each live process that is new or changed its group since the last call."""
        moved = [process for process in self._changed if process.group != process.reported]
        self._changed.clear()
        for process in moved:
            process.reported = process.group
        return [(process.key, process.group) for process in moved]

    def _match(self, pid: int, comm: str) -> int | None:
        if pid in ALWAYS_OTHER:
            return self._groups.other_index
        return self._groups.match(comm, lambda: self._command_line(pid, comm))

    def _command_line(self, pid: int, comm: str) -> str:
        try:
            return self._cmdline(pid)
        except OSError:
            return comm

    def _hand_down(self, process: _Process) -> None:
        """Carry a process's group to its descendants, as far as that changes theirs."""
        reached = [process]
        while reached:
            parent = reached.pop()
            self._changed.add(parent)
            for child in parent.children:
                before, child.inherited = child.group, parent.group
                if child.group != before:
                    reached.append(child)
