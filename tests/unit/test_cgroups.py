"""Cgroups and their entities, over folders that stand in for cgroupfs: their inode numbers are the ids."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supervisor.aggregator import cgroup_tree, cgroups, storage
from supervisor.aggregator.cgroup_names import Kind
from supervisor.aggregator.cgroups import NO_ENTITY, REMEMBERED_S, Cgroup, Cgroups
from supervisor.aggregator.storage import MAX_CGROUPS
from supervisor.kernel import arrays

SSH = "system.slice/ssh.service"
HEX = "3f4a" * 16
A_LONG_TIME_S = 60.0


class Killed(BaseException):
    """What SIGKILL would do: nothing catches it."""


class Shared(np.ndarray[Any, np.dtype[Any]]):
    """Shared memory whose user is killed before the write that `kill_at` counts down to."""

    kill_at = 0

    def __setitem__(self, key: Any, value: Any) -> None:
        Shared.kill_at -= 1
        if Shared.kill_at == 0:
            raise Killed
        super().__setitem__(key, value)


class House:
    """A host: folders, which of them processes are in, and one aggregator after another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.memory_fd = storage.create_cgroups()
        self.now_s = 1000.0
        self.inside: set[int] = set()
        self.births: dict[int, str] = {}
        self.cgroups = self.aggregator()

    def aggregator(self) -> Cgroups:
        """A new one; the memory is what it has from the last."""
        self.cgroups = Cgroups(self.root, self.memory_fd, lambda: self.now_s, self.news)
        return self.cgroups

    def news(self) -> dict[int, str]:
        """What the kernel has told since the last time."""
        told, self.births = self.births, {}
        return told

    def start(self, path: str | bytes) -> int:
        """Makes a cgroup with a process in it; its id."""
        folder = os.path.join(os.fsencode(self.root), os.fsencode(path))
        os.makedirs(folder, exist_ok=True)
        identity = os.stat(folder).st_ino
        self.inside.add(identity)
        return identity

    def end(self, path: str) -> None:
        """Its processes end and the folder goes."""
        folder = self.root / path
        self.inside.discard(folder.stat().st_ino)
        # Not removed, so that no other gets its inode number; cgroupfs does not give one twice either.
        folder.rename(self.root.parent / f"was-{folder.stat().st_ino}")

    def tick(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        self.cgroups.refresh(self.inside)

    def entity(self, identity: int) -> int:
        return self.cgroups.entity_of[identity]

    def live(self) -> dict[str, Cgroup]:
        return {found.path: found for found in self.cgroups.live()}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    root = tmp_path / "cgroup"
    root.mkdir()
    made = House(root)
    yield made
    os.close(made.memory_fd)


def test_a_service_and_a_container_have_an_entity_each(house: House) -> None:
    ssh, web = house.start(SSH), house.start(f"docker/{HEX}")
    house.tick()
    assert sorted((house.entity(ssh), house.entity(web))) == [0, 1]
    assert house.live() == {
        f"/{SSH}": Cgroup(house.entity(ssh), f"/{SSH}", Kind.SERVICE, "ssh", "systemd_ssh"),
        f"/docker/{HEX}": Cgroup(
            house.entity(web), f"/docker/{HEX}", Kind.CONTAINER, HEX[:12], f"cgroup_docker_{HEX}"
        ),
    }
    assert house.cgroups.gone() == {}


def test_a_cgroup_without_a_folder_has_the_path_that_the_kernel_told(house: House) -> None:
    house.births = {900: "/docker/short", 901: "/system.slice/short.service", 902: "/user.slice"}
    house.inside |= {900, 901, 902}
    house.tick()
    assert set(house.live()) == {"/docker/short", "/system.slice/short.service"}
    assert house.entity(902) == NO_ENTITY
    house.inside.clear()
    house.tick()
    assert len(house.live()) == 2  # a frame later their counts are shown
    house.tick(2 * REMEMBERED_S)
    assert house.live() == {}


def test_what_the_kernel_told_is_found_without_a_walk(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.tick()
    monkeypatch.setattr(cgroups, "walk", lambda mount_point: pytest.fail("walked"))
    house.births = {900: "/docker/told"}
    house.inside.add(900)
    house.tick()
    assert set(house.live()) == {"/docker/told"}


def test_paths_that_the_kernel_told_are_not_kept_for_ever(house: House) -> None:
    for first in range(1, 50_000, 1000):
        house.births = {first + n: f"/docker/{first + n}" for n in range(1000)}
        house.tick()
    house.inside.add(50_000)
    house.tick()
    assert set(house.live()) == {"/docker/50000"}
    assert len(house.cgroups._made) < 5000


def test_sessions_slices_and_the_root_take_no_entity(house: House) -> None:
    ids = [
        house.start(path)
        for path in (".", "init.scope", "system.slice", "user.slice/u.slice/session-1.scope")
    ]
    house.tick()
    assert [house.entity(identity) for identity in ids] == [NO_ENTITY] * 4
    assert house.live() == {}


def test_processes_below_a_container_are_counted_in_it(house: House) -> None:
    inner = house.start("lxc.payload.web/system.slice/cron.service")
    other = house.start("lxc.payload.web/init.scope")
    house.tick()
    assert house.entity(inner) == house.entity(other) == house.live()["/lxc.payload.web"].entity
    assert len(house.live()) == 1


def test_the_id_0_of_a_process_without_cgroup_is_none(house: House) -> None:
    house.inside.add(0)
    house.tick()
    assert house.cgroups.entity_of == {}
    assert house.live() == {}


def test_a_service_that_is_restarted_goes_on_with_its_entity(house: House) -> None:
    before = house.start(SSH)
    house.tick()
    entity = house.entity(before)
    house.end(SSH)
    house.tick()
    after = house.start(SSH)
    house.tick()
    assert before != after
    assert house.entity(after) == entity
    assert house.cgroups.gone() == {}
    house.tick(A_LONG_TIME_S)
    assert house.live()[f"/{SSH}"].entity == entity


def test_old_and_new_processes_of_a_restarted_service_are_counted_together(house: House) -> None:
    before = house.start(SSH)
    house.tick()
    house.end(SSH)
    house.inside.add(before)  # one that has ended and is not yet released
    after = house.start(SSH)
    house.tick()
    assert house.entity(before) == house.entity(after)


def test_a_cgroup_that_has_gone_is_told_of_until_it_is_released_and_its_entity_given_again(
    house: House,
) -> None:
    first = house.start(SSH)
    house.tick()
    entity = house.entity(first)
    ssh = house.live()[f"/{SSH}"]
    house.end(SSH)
    house.tick()
    assert house.cgroups.gone() == {}
    house.tick(REMEMBERED_S)
    for _ in range(2):
        assert house.cgroups.gone() == {entity: ssh}
        assert house.live() == {}
        house.tick()
    house.cgroups.release(entity)
    assert house.cgroups.gone() == {}
    second = house.start("other")
    house.tick()
    assert house.entity(second) == entity


def test_a_cgroup_that_comes_back_before_it_is_released_goes_on(house: House) -> None:
    house.start(SSH)
    house.tick()
    entity = house.live()[f"/{SSH}"].entity
    house.end(SSH)
    house.tick()
    house.tick(REMEMBERED_S)
    assert entity in house.cgroups.gone()
    again = house.start(SSH)
    house.tick()
    assert house.cgroups.gone() == {}
    assert house.entity(again) == entity
    assert f"/{SSH}" in house.live()


def test_only_what_has_gone_can_be_released(house: House) -> None:
    ssh = house.start(SSH)
    house.tick()
    with pytest.raises(ValueError, match="is not gone"):
        house.cgroups.release(house.entity(ssh))
    with pytest.raises(ValueError, match="is not gone"):
        house.cgroups.release(77)


def test_a_cgroup_whose_processes_have_ended_stays_while_its_folder_exists(house: House) -> None:
    ssh = house.start(SSH)
    house.tick()
    house.inside.clear()
    for _ in range(3):
        house.tick(A_LONG_TIME_S)
    assert f"/{SSH}" in house.live()
    assert ssh not in house.cgroups.entity_of


def test_an_id_without_folder_has_an_entity_and_no_charts(house: House) -> None:
    house.inside.add(0xDEAD)
    house.tick()
    entity = house.entity(0xDEAD)
    assert entity != NO_ENTITY
    assert house.live() == {}
    house.inside.clear()
    house.tick()
    assert house.cgroups.gone() == {entity: None}
    house.cgroups.release(entity)
    assert house.cgroups.gone() == {}


def test_another_aggregator_goes_on_with_the_same_entities(house: House) -> None:
    paths = (SSH, f"docker/{HEX}", "a.b", "a-b", "lxc.payload.web")
    ids = [house.start(path) for path in paths] + [0xDEAD]
    house.inside.add(0xDEAD)
    house.tick()
    house.end("lxc.payload.web")
    house.tick()
    house.tick(REMEMBERED_S)
    live, gone, known = house.live(), house.cgroups.gone(), dict(house.cgroups.entity_of)
    assert len(gone) == 1
    assert len({house.entity(identity) for identity in ids if identity in house.inside}) == 5

    house.aggregator()
    assert house.live() == live
    assert house.cgroups.gone() == gone
    house.tick()
    assert house.cgroups.entity_of == known
    assert house.live() == live


def test_chart_types_stay_when_entities_were_given_again_and_the_aggregator_is_another(house: House) -> None:
    """`a-b` has the lower number and the longer type; a reader in the order of numbers would turn them."""
    house.start("first")
    house.tick()
    house.start("a.b")
    house.tick()
    house.end("first")
    house.tick()
    house.tick(REMEMBERED_S)
    house.cgroups.release(0)
    house.start("a-b")
    house.tick()
    live = house.live()
    assert (live["/a-b"].entity, live["/a.b"].entity) == (0, 1)
    assert live["/a.b"].chart_type == "cgroup_a-b"
    assert live["/a-b"].chart_type.startswith("cgroup_a-b_")
    house.aggregator()
    assert house.live() == live


def a_day(house: House) -> None:
    """All that can become of an entity; can be lived again from the start."""
    house.start("stays")
    for path in ("goes", "a.b", "a-b"):
        house.start(path)
    house.inside.add(0xDEAD)
    house.tick()
    house.end("goes")
    house.inside.discard(0xDEAD)
    house.tick()
    house.tick(REMEMBERED_S)
    for entity in house.cgroups.gone():
        house.cgroups.release(entity)
    house.start("comes")
    house.tick()


def test_an_aggregator_killed_at_any_write_leaves_a_table_that_the_next_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = arrays.views
    monkeypatch.setattr(
        arrays,
        "views",
        lambda fd, fields, writable: {
            name: array.view(Shared) for name, array in views(fd, fields, writable=writable).items()
        },
    )
    kills = 0
    while True:
        root = tmp_path / str(kills)
        root.mkdir()
        house = House(root)
        Shared.kill_at = kills + 1
        try:
            a_day(house)
        except Killed:
            kills += 1
            stays = house.live().get("/stays")
            house.aggregator()
            if stays:
                assert house.live()["/stays"] == stays
            a_day(house)
            assert house.live().keys() == {"/stays", "/a.b", "/a-b", "/comes"}
            assert len({found.entity for found in house.cgroups.live()}) == 4
            assert len({found.chart_type for found in house.cgroups.live()}) == 4
            assert house.cgroups.gone() == {}
            os.close(house.memory_fd)
        else:
            os.close(house.memory_fd)
            break
    assert kills > 20


HOSTILE = [b"a\nCHART x.y", b"it's", b'say "x"', b"n" * 255, b"caf\xe9", "naïve ✓".encode(), b"\\", b"a b"]


def test_any_bytes_in_names_are_taken_and_survive_another_aggregator(house: House) -> None:
    for name in HOSTILE:
        house.start(name)
    house.tick()
    assert {os.fsencode(path)[1:] for path in house.live()} == set(HOSTILE)
    assert len({found.chart_type for found in house.cgroups.live()}) == len(HOSTILE)
    live = house.live()
    house.aggregator()
    assert house.live() == live


def test_long_paths_that_begin_alike_are_told_apart_in_512_bytes(house: House) -> None:
    deep = "/".join(["d" * 250] * 3)
    ids = [house.start(f"{deep}/{name}") for name in ("one", "two")]
    house.tick()
    assert len({house.entity(identity) for identity in ids}) == 2
    assert {len(os.fsencode(path)) for path in house.live()} == {512}
    assert len({found.chart_type for found in house.cgroups.live()}) == 2
    known = dict(house.cgroups.entity_of)
    house.aggregator()
    house.tick()
    assert house.cgroups.entity_of == known


def test_of_1001_cgroups_one_is_counted_under_none_until_there_is_a_place(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for number in range(MAX_CGROUPS + 1):
        house.start(f"c{number}")
    for _ in range(3):
        house.tick()
    entities = house.cgroups.entity_of.values()
    assert sorted(entities) == [NO_ENTITY, *range(MAX_CGROUPS)]
    assert house.cgroups.left_out == 1
    assert [record.getMessage() for record in caplog.records] == [
        "cgroups: there are more than 1000 services and containers; the rest counts for the host only"
    ]
    house.end(next(iter(house.live())).removeprefix("/"))
    house.tick()
    house.tick(REMEMBERED_S)
    (gone,) = house.cgroups.gone()
    house.cgroups.release(gone)
    house.tick()
    assert NO_ENTITY not in house.cgroups.entity_of.values()
    assert house.cgroups.left_out == 0


def test_nothing_is_read_while_the_same_cgroups_have_processes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        house.start(f"system.slice/s{number}.service")
    house.tick()

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a folder was read")

    monkeypatch.setattr(os, "scandir", read)
    monkeypatch.setattr(os, "stat", read)
    for _ in range(20):
        house.tick(A_LONG_TIME_S)
    assert len(house.live()) == 50


def test_a_hierarchy_that_cannot_be_read_is_told_once_and_tried_again(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ssh = house.start(SSH)
    away = house.root.rename(house.root.parent / "away")
    for _ in range(5):
        house.tick(A_LONG_TIME_S)
    entity = house.entity(ssh)
    assert house.live() == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"cgroups: {house.root} cannot be read: No such file or directory; what is not seen there "
        "has no charts of its own; tried again every 10 s while a process is in it"
    ]
    away.rename(house.root)
    house.tick(A_LONG_TIME_S)
    # What was counted meanwhile is its own.
    assert house.live()[f"/{SSH}"].entity == house.entity(ssh) == entity


def test_a_folder_that_must_not_be_read_keeps_nothing_else_from_being_seen(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    hidden, ssh = house.start("secret/a.scope"), house.start(SSH)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("/secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for _ in range(3):
        house.tick(A_LONG_TIME_S)
    assert house.live().keys() == {f"/{SSH}"}
    assert len({house.entity(hidden), house.entity(ssh), NO_ENTITY}) == 3
    assert len(caplog.records) == 1
    assert "secret cannot be read: Permission denied" in caplog.records[0].getMessage()


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), OSError(19, "No such device")])
def test_a_folder_that_vanishes_during_the_walk_is_no_trouble(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    caplog.set_level(logging.WARNING)
    house.start("vanishing/a.scope")
    house.start(SSH)
    scandir = os.scandir

    def vanish(path: str) -> object:
        if path.endswith("/vanishing"):
            raise error
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    house.tick()
    assert house.live().keys() == {f"/{SSH}"}
    assert caplog.records == []


def test_the_hierarchy_can_go_altogether(house: House) -> None:
    house.start(SSH)
    house.tick()
    entity = house.live()[f"/{SSH}"].entity
    shutil.rmtree(house.root)
    house.inside.clear()
    house.tick()
    house.tick(REMEMBERED_S)
    assert house.cgroups.gone().keys() == {entity}


def test_a_slow_walk_is_followed_by_a_rest(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []

    def slow(mount_point: str) -> cgroup_tree.Walk:
        walks.append(house.now_s)
        house.now_s += 0.5
        return cgroup_tree.walk(mount_point)

    monkeypatch.setattr(cgroups, "walk", slow)
    house.start("a")
    house.tick()
    late = house.start("b")
    house.tick()
    assert len(walks) == 1
    entity = house.entity(late)  # counted meanwhile, without charts
    house.tick(A_LONG_TIME_S)
    assert len(walks) == 2
    assert house.live()["/b"].entity == entity


def test_other_mounts_and_links_in_the_hierarchy_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert sorted(cgroup_tree.walk(str(tmp_path)).path_of_id.values()) == ["/", "/a"]
    assert not any(path.startswith("/fs/cgroup/") for path in cgroup_tree.walk("/sys").path_of_id.values())
