"""The words that Netdata's own plugin takes work here too, with one dash or two."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from supervisor import cli
from supervisor.config.model import Config


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith("NETDATA_")]:
        monkeypatch.delenv(name)
    return tmp_path


def config_of(folder: Path, *words: str) -> Config:
    return cli.load_config(cli._parser().parse_args(["run", "--config-dir", str(folder), *words]))


@pytest.mark.parametrize("dash", ["-", "--"])
def test_return_is_the_load_mode_of_every_program(no_files: Path, dash: str) -> None:
    config = config_of(no_files, "3", f"{dash}return")
    assert {program.load_mode for program in config.programs.values()} == {"return"}
    assert config.update_every_s == 3


@pytest.mark.parametrize("dash", ["-", "--"])
def test_names_of_programs_leave_the_others_out(no_files: Path, dash: str) -> None:
    config = config_of(no_files, f"{dash}filedescriptor", f"{dash}process")
    assert {name for name, program in config.programs.items() if program.enabled} == {"fd", "process"}


@pytest.mark.parametrize(("word", "wanted"), [("global", False), ("all", True)])
def test_global_and_all_decide_about_apps_and_cgroups(no_files: Path, word: str, wanted: bool) -> None:
    (no_files / "ebpf.d.conf").write_text(f"[global]\n apps = {'no' if wanted else 'yes'}\n cgroups = no\n")
    config = config_of(no_files, f"--{word}")
    assert {(p.apps, p.cgroups) for p in config.programs.values()} == {(wanted, wanted)}


@pytest.mark.parametrize(("word", "wanted"), [("legacy", "legacy"), ("core", "co-re")])
def test_legacy_and_core_choose_the_family_of_hooks(no_files: Path, word: str, wanted: str) -> None:
    assert {p.type_format for p in config_of(no_files, f"--{word}").programs.values()} == {wanted}


NAMINGS: Mapping[tuple[str, str], bool] = {
    ("", ""): False,
    ("", "v1.43.2"): False,
    ("", "v1.44.0-12-nightly"): True,
    ("", "v2.10.4"): True,
    ("", "not a version"): False,
    ("classic", "v2.10.4"): False,
    ("modern", ""): True,
}


@pytest.mark.parametrize(("option", "version"), NAMINGS)
def test_the_agents_version_or_the_option_decides_how_charts_are_named(
    no_files: Path, monkeypatch: pytest.MonkeyPatch, option: str, version: str
) -> None:
    if version:
        monkeypatch.setenv("NETDATA_VERSION", version)
    if option:
        (no_files / "ebpf.d.conf").write_text(f"[supervisor]\n chart naming = {option}\n")
    assert config_of(no_files).modern_charts is NAMINGS[option, version]
