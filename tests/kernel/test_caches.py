"""Page cache, directory cache, swap and kills for want of memory: known numbers of real events, and exactly
these in the stream. One supervisor for each kind of plan serves all of it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Run, supervisor, wait_for
from tests.kernel.conftest import PLANS
from tests.kernel.counting import Growth
from tests.kernel.coverage import covered
from tests.kernel.disks import (
    cached_pages,
    held_in_cache,
    killed_in,
    mounted,
    small_cgroup,
    swap_space,
    vmstat,
)
from tests.workload import Workload
from workers import registry

pytestmark = pytest.mark.kernel

PROGRAMS: Final = ("cachestat", "dcstat", "swap", "oomkill")

# Each file system, and each other thing, has a process and a group of its own: one wait serves them all.
DISKS: Final = ("ext4", "xfs")
NAMES: Final = {
    name: f"{name}{os.getpid()}"
    for name in (*DISKS, "tmpfs", "reads", "dirs", "misses", "makes", "swaps", "eats")
}
GROUPS: Final = "".join(f"{name}: {comm}\n" for name, comm in NAMES.items())

PAGES: Final = 16384  # 64 MiB
# A sample may be taken between the kernel's reading ahead and the reading itself: so many pages are then
# misses of one second and hits of the next. No window that is read ahead is larger than 2 MiB.
READ_AHEAD_PAGES: Final = 1024

HITS, MISSES = "apps.cachestat_hits", "apps.cachestat_misses"
DIRTIES, RATIO = "apps.cachestat_dirties", "apps.cachestat_ratio"
REFERENCES, SLOW, NOT_FOUND = "apps.dc_reference", "apps.dc_not_cache", "apps.dc_not_found"
OUT, IN = "apps.swap_write_call", "apps.swap_read_call"
KILLS: Final = "apps.oomkills"


@pytest.fixture(scope="module", params=PLANS)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """The plans of these programs are the same in both modes."""
    with supervisor("--only", ",".join(PROGRAMS), "--attach", request.param, groups=GROUPS) as running:

        def settled() -> bool:
            states = {program["state"] for program in running.status()["programs"]}
            return states <= {"RUNNING", "UNAVAILABLE"}

        wait_for("every program to run, or to say why not", settled, 30)
        yield running


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """File systems of their own."""
    folder = tmp_path_factory.mktemp("disks")
    with contextlib.ExitStack() as stack:
        yield {kind: stack.enter_context(mounted(kind, folder)) for kind in (*DISKS, "tmpfs")}


def counts(run: Run, program: str, hook: str) -> bool:
    """Whether the hook is attached. Where it is not, the reason must be told."""
    hooks = [one for one in run.program(program)["hooks"] if one["hook"] == hook]
    assert hooks, f"{program} says nothing of {hook}"
    assert all(one["attached"] or one["reason"] for one in hooks)
    return any(one["attached"] for one in hooks)


@pytest.mark.parametrize("name", PROGRAMS)
def test_return_mode_has_the_plans_of_entry_mode(name: str) -> None:
    assert all(hook.entry == hook.returning for hook in registry.find(name).hooks)


def test_64_mib_read_cold_are_16384_misses_and_read_again_they_are_16384_hits_and_no_miss(
    run: Run, folders: dict[str, Path]
) -> None:
    if not counts(run, "cachestat", "add"):
        assert not [name for name in run.charts() if "cachestat_misses" in name or "cachestat_hits" in name]
        return
    accesses = counts(run, "cachestat", "access")
    hits, misses = {(HITS, kind): PAGES for kind in DISKS}, {(MISSES, kind): PAGES for kind in DISKS}
    files = [folders[kind] / "1" for kind in DISKS]
    host = ("mem.cachestat_misses", "miss")
    with contextlib.ExitStack() as stack:
        works = [stack.enter_context(Workload(NAMES[kind], folders[kind])) for kind in DISKS]
        for work in works:
            work.do("write_file", 1, PAGES)
            work.do("forget_file", 1)
        assert [cached_pages(file) for file in files] == [0] * len(files)
        with Growth(run, host, *hits, *misses) as growth:
            seen = {kind: len(run.charts()[RATIO].values.get(kind, [])) for kind in DISKS if accesses}
            for work in works:
                work.do("read_file", 1, 256)
            assert growth.settle(misses) == misses
            assert growth.by(*host) >= PAGES * len(DISKS)
            assert all(growth.by(*pair) <= READ_AHEAD_PAGES for pair in hits)
            for kind, before in seen.items():
                assert min(run.charts()[RATIO].values[kind][before:]) <= 100 * READ_AHEAD_PAGES // PAGES

        with contextlib.ExitStack() as held:
            for file in files:
                held.enter_context(held_in_cache(file))
            assert [cached_pages(file) for file in files] == [PAGES] * len(files)
            growth = held.enter_context(Growth(run, *hits, *misses))
            seen = {kind: len(run.charts()[RATIO].values[kind]) for kind in seen}
            for work in works:
                work.do("read_file", 1, 1)
            if accesses:
                assert growth.settle(hits) == hits
            else:
                run.wait_frames(3)
                assert HITS not in run.charts()
                assert RATIO not in run.charts()
            assert [growth.by(*pair) for pair in misses] == [0] * len(DISKS)
            for kind, before in seen.items():
                assert set(run.charts()[RATIO].values[kind][before:]) == {100}
    for file in files:
        file.unlink()
    covered(run, "cachestat", "added", "misses")
    if accesses:
        covered(run, "cachestat", "accessed", "hits", "ratio")


def test_pages_of_a_new_file_are_no_misses_and_do_not_hide_those_of_another(
    run: Run, folders: dict[str, Path]
) -> None:
    """ext4 writes by buffers of the size of a page, xfs without any; tmpfs has no disk to be slower than."""
    dirty, missed, cold = 1009, 2003, 1013
    expected = {(DIRTIES, "ext4"): dirty}
    none = [(DIRTIES, "xfs"), (DIRTIES, "tmpfs")]
    covers = ["buffer_dirtied"]
    if counts(run, "cachestat", "add"):
        expected |= {(MISSES, "reads"): missed, (MISSES, "xfs"): cold}
        none += [(MISSES, "ext4"), (MISSES, "tmpfs")]
        covers += ["dirtied", "misses"]
    with contextlib.ExitStack() as stack:
        kinds = {"ext4": "ext4", "xfs": "xfs", "tmpfs": "tmpfs", "reads": "xfs"}
        works = {n: stack.enter_context(Workload(NAMES[n], folders[kind])) for n, kind in kinds.items()}
        works["reads"].do("write_file", 2, missed)
        works["reads"].do("forget_file", 2)
        works["xfs"].do("write_file", 3, cold)
        works["xfs"].do("forget_file", 3)
        works["xfs"].do("write_file", 4, cold)
        works["xfs"].do("forget_file", 4)
        works["xfs"].do("read_file", 4, 1)
        works["tmpfs"].do("write_file", 5, dirty)
        with Growth(run, *expected, *none) as growth:
            works["ext4"].do("write_file", 5, dirty)
            works["tmpfs"].do("write_file", 6, dirty)
            works["tmpfs"].do("read_file", 6, 1)
            works["reads"].do("read_file", 2, 7)
            # What is written anew was in the cache; what is read was not.
            works["xfs"].do("rewrite_file", 4, cold)
            works["xfs"].do("read_file", 3, 16)
            assert growth.settle(expected) == expected
            assert [growth.by(*pair) for pair in none] == [0] * len(none)
    covered(run, "cachestat", *covers)


def test_names_looked_up_are_counted_each_and_those_not_in_the_cache_apart(
    run: Run, folders: dict[str, Path]
) -> None:
    expected = {
        (REFERENCES, "dirs"): 1009 * 7,
        (SLOW, "misses"): 503,
        (NOT_FOUND, "misses"): 503,
        (SLOW, "makes"): 211,
    }
    none = [(SLOW, "dirs"), (NOT_FOUND, "makes"), (REFERENCES, "misses"), (REFERENCES, "makes")]
    if not counts(run, "dcstat", "reference"):
        assert not [name for name in run.charts() if ".dc_" in name]
        return
    (folders["ext4"] / "a/b/c/d/e/f/g").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = {
            n: stack.enter_context(Workload(NAMES[n], folders["ext4"])) for n in ("dirs", "misses", "makes")
        }
        with Growth(run, *expected, *none) as growth:
            work["dirs"].do("stat", 1009)
            work["misses"].do("remove_missing", 503)
            work["makes"].do("make_again", 211)
            assert growth.settle(expected) == expected
            assert [growth.by(*pair) for pair in none] == [0] * len(none)
    covered(run, "dcstat", "reference", "slow", "miss", "ratio")


def test_pages_forced_out_to_swap_and_touched_again_are_counted_one_by_one(run: Run, tmp_path: Path) -> None:
    if not counts(run, "swap", "read") or not counts(run, "swap", "write"):
        assert not [name for name in run.charts() if "swap" in name]
        return
    out, back = (OUT, "swaps"), (IN, "swaps")
    with swap_space(tmp_path), Workload(NAMES["swaps"]) as work, Growth(run, out, back) as growth:
        before = vmstat("pswpout"), vmstat("pswpin")
        work.do("page_out", 1009)
        wait_for("the pages to be written", lambda: vmstat("nr_writeback") == 0)
        work.do("page_out_again", 1009)
        work.do("page_in", 1009)
        written, read = vmstat("pswpout") - before[0], vmstat("pswpin") - before[1]
        # A page that was let go of as soon as it was written has been read twice, one that is held by
        # something else for a moment stays and is not read.
        assert written == 1009
        assert read > 0
        assert growth.settle({out: written, back: read}) == {out: written, back: read}
    covered(run, "swap", "write")
    covered(run, "swap", "read", how="exactly as many as pswpin in /proc/vmstat")


def test_processes_killed_for_want_of_memory_are_counted_where_they_belonged(run: Run) -> None:
    expected = {(KILLS, "eats"): 7}
    assert counts(run, "oomkill", "kill")
    with contextlib.ExitStack() as stack:
        cgroup = stack.enter_context(small_cgroup(NAMES["eats"], 24 << 20))
        work = stack.enter_context(Workload(NAMES["eats"], cgroup))
        growth = stack.enter_context(Growth(run, *expected))
        work.do("overeat", 7)
        assert killed_in(cgroup) == 7
        assert growth.settle(expected) == expected
    covered(run, "oomkill", "kills")
