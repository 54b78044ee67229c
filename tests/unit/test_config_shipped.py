"""The files in `conf/` are the manual: complete, at the defaults, and no obstacle to a site's own files."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from supervisor.config.ini import parse
from supervisor.config.load import PACKAGED, check, load
from supervisor.config.options import MAIN, MODULES, PROGRAMS, module_options

# In a module file a key at its default stands behind a '#', with no blank after it; prose has one.
OFF = re.compile(r"^( *)#(?=[a-z][a-z0-9_ -]* = )", re.MULTILINE)
MODULE_FILES = {name: PACKAGED / "ebpf.d" / MODULES[name].files[0] for name in PROGRAMS}


def switched_on(path: Path) -> str:
    """The text of a shipped module file with its keys no longer comments."""
    return OFF.sub(r"\1", path.read_text())


def keys(path: Path, text: str) -> list[tuple[str, str]]:
    return [(entry.section, entry.key) for entry in parse(path, text.encode()).entries]


def test_the_shipped_files_equal_the_defaults(tmp_path: Path) -> None:
    shipped, problems = load([PACKAGED])
    without_files, _ = load([tmp_path])
    assert problems == []
    assert shipped == without_files
    assert shipped.files == (PACKAGED / "ebpf.d.conf", *MODULE_FILES.values())


def test_the_shipped_module_files_equal_the_defaults_when_their_keys_are_switched_on(tmp_path: Path) -> None:
    (tmp_path / "ebpf.d").mkdir()
    for path in MODULE_FILES.values():
        (tmp_path / "ebpf.d" / path.name).write_text(switched_on(path))
    config, problems = load([tmp_path])
    assert problems == []
    assert config == load([tmp_path / "no"])[0]


def test_the_main_file_shows_every_key_that_has_an_effect_and_no_other() -> None:
    path = PACKAGED / "ebpf.d.conf"
    expected = [(option.section, option.key) for option in MAIN.options if option.in_manual]
    assert sorted(keys(path, path.read_text())) == sorted(expected)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_module_file_shows_every_key_that_has_an_effect_and_no_other(name: str) -> None:
    path = MODULE_FILES[name]
    expected = [
        (option.section, option.key) for option in module_options(MODULES[name]).options if option.in_manual
    ]
    assert sorted(keys(path, switched_on(path))) == sorted(expected)


def test_every_shipped_key_has_a_sentence_above_it() -> None:
    for path in (PACKAGED / "ebpf.d.conf", *MODULE_FILES.values()):
        lines = switched_on(path).splitlines()
        for above, line in itertools.pairwise(lines):
            if " = " in line and not line.lstrip().startswith("#"):
                assert above.lstrip().startswith("# "), f"{path.name}: {line}"


def test_the_shipped_module_files_leave_a_sites_main_file_in_force(tmp_path: Path) -> None:
    (tmp_path / "ebpf.d.conf").write_text("[global]\napps = no\nupdate every = 10\nebpf load mode = return\n")
    config, _ = load([tmp_path, PACKAGED])
    fd = config.programs["fd"]
    assert (fd.apps, fd.update_every_s, fd.load_mode) == (False, 10, "return")


def test_the_shipped_folder_passes_its_own_check() -> None:
    assert check([PACKAGED]) == []
