"""Which group each process is counted in, told case by case and compared with a full evaluation."""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from supervisor.aggregator.apps_groups import AppsGroups, parse
from supervisor.aggregator.process_tree import ProcessTree

GROUPS = parse("web: nginx\ndb: postgres\ncron: cron\nsys: systemd kthreadd")
NAMES = ("nginx", "postgres", "cron", "systemd", "bash", "sh", "foo")


def no_command_line(pid: int) -> str:
    raise ProcessLookupError(pid)


@dataclass
class Known:
    """A process as a scan of /proc tells it."""

    key: int
    pid: int
    ppid: int
    comm: str


def assign(processes: Iterable[Known], groups: AppsGroups) -> dict[int, int]:
    """The rules for a moment in which every parent still lives, worked out for each process from nothing."""
    by_pid = {process.pid: process for process in processes}
    return {process.key: _assign_one(process, by_pid, groups) for process in processes}


def _assign_one(process: Known, by_pid: dict[int, Known], groups: AppsGroups) -> int:
    ancestor: Known | None = process
    while ancestor is not None and ancestor.pid not in (0, 1):
        group = groups.match(ancestor.comm, str)
        if group is not None:
            return group
        ancestor = by_pid.get(ancestor.ppid)
    return groups.other_index


class Host:
    """A tree under test with the births reported by hand; a process has its pid for a key."""

    def __init__(self, groups: AppsGroups = GROUPS) -> None:
        self.groups = groups
        self.tree = ProcessTree(groups, no_command_line)

    def start(self, pid: int, ppid: int, comm: str) -> None:
        self.tree.born(pid, pid, ppid, comm)

    def group(self, key: int) -> str:
        return self.groups.names[self.tree.group_of(key)]

    def news(self) -> dict[int, str]:
        return {key: self.groups.names[group] for key, group in self.tree.regrouped()}


def host(*lines: str, groups: AppsGroups = GROUPS) -> Host:
    """Start processes given as `pid ppid comm`."""
    started = Host(groups)
    for line in lines:
        pid, ppid, comm = line.split()
        started.start(int(pid), int(ppid), comm)
    return started


FAMILIES = [
    # processes as `pid ppid comm`, and the groups expected
    (("10 1 nginx",), "web"),
    (("10 1 bash",), "other"),
    (("10 1 nginx", "11 10 bash"), "web web"),
    (("10 1 nginx", "11 10 bash", "12 11 foo"), "web web web"),
    (("10 1 nginx", "11 10 postgres"), "web db"),
    (("10 1 nginx", "11 10 postgres", "12 11 foo"), "web db db"),
    (("10 1 nginx", "11 10 postgres", "12 11 nginx", "13 12 foo"), "web db web web"),
    # nothing rises
    (("10 1 bash", "11 10 nginx"), "other web"),
    (("10 1 bash", "11 10 nginx", "12 10 foo"), "other web other"),
    (("10 1 cron", "11 10 sh", "12 11 nginx", "13 11 foo"), "cron cron web cron"),
    (("2 0 foo", "3 2 kthreadd", "4 2 kworker/0"), "other sys other"),
    # pid 1, pid 0 and pid 2
    (("1 0 systemd",), "other"),
    (("1 0 systemd", "10 1 foo"), "other other"),
    (("1 0 init", "10 1 nginx", "11 1 foo"), "other web other"),
    (("0 0 nginx", "1 0 init", "10 1 foo"), "other other other"),
    (("10 9 nginx", "1 10 systemd", "11 1 foo"), "web other other"),
    (("2 0 kthreadd", "3 2 ksoftirqd/0"), "sys sys"),
    (("2 0 kthreadd", "3 2 nginx"), "sys web"),
    # unknown parents
    (("10 9 foo", "11 10 nginx", "12 8 foo"), "other web other"),
    (("10 10 nginx",), "web"),
]


@pytest.mark.parametrize(("processes", "expected"), FAMILIES)
def test_group_is_its_own_or_that_of_the_nearest_ancestor(processes: tuple[str, ...], expected: str) -> None:
    started = host(*processes)
    keys = [int(line.split()[0]) for line in processes]
    assert [started.group(key) for key in keys] == expected.split()
    assert started.news() == dict(zip(keys, expected.split(), strict=True))
    assert started.news() == {}


@pytest.mark.parametrize(("processes", "expected"), FAMILIES)
def test_oracle_of_these_tests_says_the_same(processes: tuple[str, ...], expected: str) -> None:
    known = [Known(int(pid), int(pid), int(ppid), comm) for pid, ppid, comm in map(str.split, processes)]
    groups = assign([process for process in known if process.pid != process.ppid], GROUPS)
    wanted = {process.key: name for process, name in zip(known, expected.split(), strict=True)}
    assert {key: GROUPS.names[group] for key, group in groups.items()}.items() <= wanted.items()


def test_group_called_other_in_the_file_is_a_group_like_any() -> None:
    groups = parse("other: misc\nweb: nginx")
    started = host("10 1 nginx", "11 10 misc", "12 11 foo", "13 12 nginx", "14 1 foo", groups=groups)
    assert [started.group(key) for key in range(10, 15)] == ["web", "other", "other", "web", "other"]


def test_process_that_has_gone_makes_no_more_children_though_another_may_have_its_id() -> None:
    started = host("10 1 nginx", "11 10 bash")
    started.tree.freed(10)
    started.tree.freed(10)
    started.start(12, 10, "bash")
    assert [started.group(key) for key in (10, 11, 12)] == ["web", "web", "other"]
    started.tree.ended(10)
    assert [started.group(key) for key in (11, 12)] == ["web", "other"]


def test_rename_moves_the_process_and_its_heirs() -> None:
    started = host("10 1 foo", "11 10 sh", "12 11 sh", "13 10 postgres", "14 13 sh")
    started.news()
    started.tree.renamed(10, "nginx")
    assert started.news() == {10: "web", 11: "web", 12: "web"}
    started.tree.renamed(13, "bash")
    assert started.news() == {13: "web", 14: "web"}
    started.tree.renamed(10, "foo")
    assert started.news() == dict.fromkeys((10, 11, 12, 13, 14), "other")


def test_process_that_loses_its_match_has_the_group_that_its_parent_has_by_then() -> None:
    started = host("10 1 nginx", "11 10 postgres", "12 11 sh")
    started.news()
    started.tree.renamed(10, "cron")
    assert started.news() == {10: "cron"}
    started.tree.renamed(11, "foo")
    assert started.news() == {11: "cron", 12: "cron"}


def test_name_of_pid_1_changes_nothing() -> None:
    started = host("1 0 init", "10 1 foo")
    started.news()
    started.tree.renamed(1, "systemd")
    assert started.news() == {}
    assert [started.group(1), started.group(10)] == ["other", "other"]


def test_rename_that_changes_no_group_is_no_news() -> None:
    started = host("10 1 nginx", "11 10 sh")
    started.news()
    started.tree.renamed(11, "nginx")
    started.tree.renamed(11, "foo")
    started.tree.renamed(10, "nginx")
    assert started.news() == {}


def test_group_that_came_and_went_between_two_looks_is_no_news() -> None:
    started = host("10 1 bash", "11 10 foo")
    started.news()
    started.tree.renamed(10, "nginx")
    assert started.group(11) == "web"
    started.tree.renamed(10, "bash")
    assert started.news() == {}


def test_children_and_their_ends_change_nothing_for_a_parent() -> None:
    started = host("10 1 bash", "11 10 foo")
    started.news()
    started.start(12, 10, "nginx")
    started.tree.renamed(11, "postgres")
    started.tree.ended(12)
    assert started.news() == {11: "db"}


def test_orphan_keeps_the_group_of_its_parent_and_hands_it_on() -> None:
    started = host("10 1 cron", "11 10 sh", "12 11 job")
    started.news()
    started.tree.ended(10)
    started.tree.ended(11)
    started.start(13, 12, "helper")
    assert started.news() == {13: "cron"}
    assert started.group(12) == "cron"


def test_orphan_does_not_follow_the_ancestors_of_its_parent() -> None:
    started = host("10 1 nginx", "11 10 sh", "12 11 foo", "13 11 postgres")
    started.news()
    started.tree.ended(11)
    started.tree.renamed(10, "cron")
    assert started.news() == {10: "cron"}
    started.tree.renamed(13, "foo")
    assert started.news() == {13: "web"}


def test_group_lost_just_before_the_parent_ended_is_lost_for_its_child_too() -> None:
    started = host("10 1 nginx", "11 10 foo")
    assert started.news()[11] == "web"
    started.tree.renamed(10, "bash")
    started.tree.ended(10)
    assert started.news() == {11: "other"}


def test_orphan_with_a_name_of_its_own_falls_back_to_the_group_of_its_parent() -> None:
    started = host("10 1 nginx", "11 10 postgres")
    started.tree.ended(10)
    assert started.group(11) == "db"
    started.tree.renamed(11, "foo")
    assert started.group(11) == "web"


def test_child_of_a_parent_that_lived_only_within_the_tick_has_its_group() -> None:
    started = host("10 1 cron")
    started.news()
    started.start(11, 10, "sh")
    started.start(12, 11, "job")
    started.tree.ended(11)
    assert started.news() == {12: "cron"}


def test_reused_pid_leaves_the_older_process_as_it_was() -> None:
    tree = ProcessTree(GROUPS, no_command_line)
    tree.born(1001, 10, 1, "nginx")
    tree.born(1002, 11, 10, "sh")
    tree.born(1003, 10, 1, "postgres")
    tree.born(1004, 12, 10, "sh")
    names = [GROUPS.names[tree.group_of(key)] for key in (1001, 1002, 1003, 1004)]
    assert names == ["web", "web", "db", "db"]
    tree.ended(1001)
    tree.born(1005, 13, 10, "sh")
    assert GROUPS.names[tree.group_of(1005)] == "db"
    assert GROUPS.names[tree.group_of(1002)] == "web"


def test_reused_key_without_an_end_is_a_new_process() -> None:
    started = host("10 1 nginx", "11 10 sh")
    started.news()
    started.tree.born(10, 20, 1, "postgres")
    assert started.news() == {10: "db"}
    assert started.group(11) == "web"
    started.start(12, 10, "sh")
    assert started.group(12) == "other"


WEB = GROUPS.names.index("web")
STORED = [
    # processes as `pid ppid comm`, the last with web stored; its group, and its group once no word matches
    (("10 9 foo",), "web", "web"),
    (("10 9 postgres",), "db", "web"),
    (("10 1 foo",), "web", "web"),
    (("10 1 postgres", "11 10 foo"), "db", "db"),
    (("10 1 bash", "11 10 foo"), "other", "other"),
    (("1 0 init", "10 1 foo"), "other", "other"),
    (("1 0 init",), "other", "other"),
]


@pytest.mark.parametrize(("processes", "expected", "without_match"), STORED)
def test_stored_group_counts_when_the_parent_is_not_known(
    processes: tuple[str, ...], expected: str, without_match: str
) -> None:
    started = host(*processes[:-1])
    pid, ppid, comm = processes[-1].split()
    key = int(pid)
    started.tree.born(key, key, int(ppid), comm, WEB)
    started.start(99, key, "sh")
    assert [started.group(key), started.group(99)] == [expected, expected]
    started.tree.renamed(key, "sh")
    assert [started.group(key), started.group(99)] == [without_match, without_match]


def test_unknown_key_is_a_key_error() -> None:
    started = host("10 1 nginx")
    started.tree.ended(10)
    assert started.news() == {}
    with pytest.raises(KeyError):
        started.group(10)
    with pytest.raises(KeyError):
        started.tree.ended(10)
    with pytest.raises(KeyError):
        started.tree.renamed(10, "x")


def test_command_line_is_read_at_birth_and_again_at_a_rename() -> None:
    lines = {10: "java kafka.Kafka"}
    groups = parse("kafka: *kafka*\njava: java")
    tree = ProcessTree(groups, lines.__getitem__)
    tree.born(5, 10, 1, "java")
    assert groups.names[tree.group_of(5)] == "kafka"
    lines[10] = "java something.else"
    tree.renamed(5, "java")
    assert groups.names[tree.group_of(5)] == "java"


def test_process_name_stands_in_for_a_command_line_that_cannot_be_read() -> None:
    started = host("10 1 my-kafka", "11 1 foo", groups=parse("kafka: *kafka*"))
    assert [started.group(10), started.group(11)] == ["kafka", "other"]


def test_names_of_pid_0_and_pid_1_are_not_even_matched() -> None:
    asked: list[int] = []

    def cmdline(pid: int) -> str:
        asked.append(pid)
        return ""

    tree = ProcessTree(parse("a: *x*"), cmdline)
    for pid in (0, 1, 2):
        tree.born(pid, pid, 0, "x")
    assert asked == [2]


def random_family(chance: random.Random, size: int) -> list[Known]:
    """Pid 1, pid 2 and a tree below them, some with parents that nobody knows."""
    family = [Known(1, 1, 0, "systemd"), Known(2, 2, 0, chance.choice(["kthreadd", "foo"]))]
    for pid in range(10, 10 + size):
        ppid = chance.choice([1, 1, 2, 9, *(process.pid for process in family[-8:])])
        family.append(Known(pid, pid, ppid, random_name(chance)))
    return family


def random_name(chance: random.Random) -> str:
    return chance.choices(NAMES, weights=[1, 1, 1, 1, 3, 3, 3])[0]


@pytest.mark.parametrize("seed", range(40))
def test_tree_agrees_with_the_full_evaluation_after_every_batch(seed: int) -> None:
    chance = random.Random(seed)
    tree = ProcessTree(GROUPS, no_command_line)
    live: list[Known] = []
    told: dict[int, int] = {}

    def bear(process: Known) -> None:
        live.append(process)
        tree.born(process.key, process.pid, process.ppid, process.comm)

    for process in random_family(chance, chance.choice([3, 10, 40])):
        bear(process)
    next_pid = 1000
    for _ in range(60):
        for _ in range(chance.randint(0, 6)):
            step = chance.random()
            if step < 0.35:
                next_pid += 1
                bear(Known(next_pid, next_pid, chance.choice(live).pid, random_name(chance)))
            elif step < 0.6:
                process = chance.choice(live)
                process.comm = random_name(chance)
                tree.renamed(process.key, process.comm)
            else:
                parents = {process.ppid for process in live}
                leaves = [process for process in live if process.pid not in parents and process.pid > 2]
                for process in chance.sample(leaves, k=min(1, len(leaves))):
                    live.remove(process)
                    tree.ended(process.key)
                    told.pop(process.key, None)
        told.update(tree.regrouped())
        expected = assign(live, GROUPS)
        assert {process.key: tree.group_of(process.key) for process in live} == expected
        assert told == expected


class Chronicle:
    """The rules for orphans and pids used again: who is whose parent, and what the ended left behind."""

    def __init__(self) -> None:
        self.comm: dict[int, str] = {}
        self.pid: dict[int, int] = {}
        self.parent: dict[int, int] = {}
        self.left: dict[int, int] = {}  # the group from a parent that has ended
        self.owner: dict[int, int] = {}  # pid to the youngest key that has it

    def born(self, key: int, pid: int, ppid: int, comm: str) -> None:
        self.comm[key], self.pid[key] = comm, pid
        if ppid in self.owner and ppid != pid:
            self.parent[key] = self.owner[ppid]
        self.owner[pid] = key

    def ended(self, key: int) -> None:
        for child in [child for child, parent in self.parent.items() if parent == key]:
            self.left[child] = self.group(key)
            del self.parent[child]
        for known in (self.comm, self.parent, self.left):
            known.pop(key, None)
        if self.owner.get(self.pid[key]) == key:
            del self.owner[self.pid[key]]

    def group(self, key: int) -> int:
        own = GROUPS.match(self.comm[key], str)
        if own is not None:
            return own
        return self.group(self.parent[key]) if key in self.parent else self.left.get(key, GROUPS.other_index)

    def groups(self) -> dict[int, int]:
        return {key: self.group(key) for key in self.comm}


@pytest.mark.parametrize("seed", range(40))
def test_tree_agrees_with_a_chronicle_of_orphans_and_reused_pids(seed: int) -> None:
    chance = random.Random(seed)
    tree = ProcessTree(GROUPS, no_command_line)
    chronicle = Chronicle()
    told: dict[int, int] = {}
    for key in range(600):
        pid, ppid = chance.randint(3, 40), chance.choice([1, *chronicle.owner, *chronicle.owner])
        comm = random_name(chance)
        chronicle.born(key, pid, ppid, comm)
        tree.born(key, pid, ppid, comm)
        if chance.random() < 0.3:
            changing, comm = chance.choice(list(chronicle.comm)), random_name(chance)
            chronicle.comm[changing] = comm
            tree.renamed(changing, comm)
        if len(chronicle.comm) > 30:
            leaving = chance.choice(list(chronicle.comm))
            chronicle.ended(leaving)
            tree.ended(leaving)
            told.pop(leaving, None)
        expected = chronicle.groups()
        assert {member: tree.group_of(member) for member in chronicle.comm} == expected
        if chance.random() < 0.2:
            told.update(tree.regrouped())
            assert told == expected
    assert len(chronicle.left) > 5


@pytest.mark.parametrize("seed", range(20))
def test_tree_built_again_from_stored_groups_has_the_same_groups(seed: int) -> None:
    chance = random.Random(seed)
    tree = ProcessTree(GROUPS, no_command_line)
    live = random_family(chance, 60)
    for process in live:
        tree.born(process.key, process.pid, process.ppid, process.comm)
    for process in chance.sample(live[2:], k=30):
        live.remove(process)
        tree.ended(process.key)
    for process in chance.sample(live, k=10):
        process.comm = random_name(chance)
        tree.renamed(process.key, process.comm)
    stored = {process.key: tree.group_of(process.key) for process in live}
    again = ProcessTree(GROUPS, no_command_line)
    for process in live:
        again.born(process.key, process.pid, process.ppid, process.comm, stored[process.key])
    assert {process.key: again.group_of(process.key) for process in live} == stored
    assert dict(again.regrouped()) == stored


@pytest.mark.parametrize("comm", ["foo", "nginx"])
def test_deep_chains_and_wide_families_need_no_recursion_and_little_time(comm: str) -> None:
    tree = ProcessTree(GROUPS, no_command_line)
    began = time.process_time()
    tree.born(10, 10, 1, comm)
    for pid in range(11, 4000):
        tree.born(pid, pid, pid - 1, "sh")
    for pid in range(10_000, 14_000):
        tree.born(pid, pid, 10, "sh")
    tree.regrouped()
    for pid in range(20_000, 24_000):
        tree.born(pid, pid, 10, "postgres")
        tree.ended(pid)
    assert tree.regrouped() == []
    tree.renamed(10, "cron")
    assert len(tree.regrouped()) == 3990 + 4000
    for pid in range(10, 4000):
        tree.ended(pid)
    assert tree.regrouped() == []
    # A fraction of a second when the work follows the change, minutes when it follows the number of all.
    assert time.process_time() - began < 5
