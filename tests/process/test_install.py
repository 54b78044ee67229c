"""make install and make uninstall below a DESTDIR, and what the installed files are worth to systemd."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.harness import ROOT

EXPOSURE_MOST: Final = 3.5
TREE: Final = "usr/local/lib/ebpf-supervisor"
UNIT: Final = "usr/local/lib/systemd/system/ebpf-supervisor.service"
PLUGINS: Final = "/usr/libexec/netdata/plugins.d"


def make(target: str, destination: Path) -> "subprocess.CompletedProcess[str]":
    # pip's own words are not what is tested here.
    return subprocess.run(
        ["make", "-s", target, f"DESTDIR={destination}", f"PLUGINSDIR={PLUGINS}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def files(folder: Path) -> set[str]:
    """All that is no folder, by the path that it has once installed; the tree's inside left out."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
        if not path.is_relative_to(folder / TREE)
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    folder.chmod(0o755)
    done = make("install", folder)
    if done.returncode and ("No matching distribution" in done.stderr or "Temporary failure" in done.stderr):
        pytest.skip("pip reaches no package index")
    assert done.returncode == 0, done.stderr
    return folder


def test_everything_is_where_it_belongs_and_nothing_anywhere_else(installed: Path) -> None:
    found = files(installed)
    configuration = {
        f"etc/ebpf-supervisor/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.conf")
    }
    assert found == configuration | {
        "usr/local/bin/ebpf-supervisor",
        "usr/local/bin/ebpfctl",
        f"{PLUGINS[1:]}/ebpf-supervisor.plugin",
        UNIT,
        "usr/local/lib/sysusers.d/ebpf-supervisor.conf",
        "usr/local/lib/tmpfiles.d/ebpf-supervisor.conf",
        "usr/local/share/doc/ebpf-supervisor/install.md",
        *(f"usr/local/share/man/man8/{path.name}" for path in (ROOT / "docs/man").iterdir()),
        *(f"usr/local/share/bash-completion/completions/{name}" for name in ("ebpf-supervisor", "ebpfctl")),
        *(f"usr/local/share/zsh/site-functions/_{name}" for name in ("ebpf-supervisor", "ebpfctl")),
    }
    for path in installed.rglob("*"):
        assert path.is_symlink() or not path.stat().st_mode & 0o6022, path


def test_nothing_installed_knows_where_it_was_built(installed: Path) -> None:
    answer = subprocess.run(
        ["grep", "-rlaF", "--exclude-dir=*.dist-info", str(installed), str(installed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout == ""


def test_the_installed_package_has_all_its_data_and_imports_nothing_of_the_checkout(installed: Path) -> None:
    """-I as in the installed commands: neither PYTHONPATH nor the working directory is looked at."""
    code = (
        "import sys, supervisor, workers.registry as r; from supervisor.kernel import source\n"
        "print(supervisor.__file__); print(len(r.all_programs()), sum(len(p.charts) for p in "
        "r.all_programs().values()), all((source.SOURCES / f'{p.name}.bpf.c').exists() "
        "for p in r.all_programs().values()))"
    )
    python = installed / TREE / "bin/python3"
    answer = subprocess.run(
        [str(python), "-I", "-c", code], cwd="/", capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    place, counts = answer.stdout.splitlines()
    assert place.startswith(str(installed / TREE))
    here = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert counts == here.stdout.splitlines()[1]
    assert counts.endswith("True")


def test_a_later_install_leaves_configuration_alone_and_uninstall_what_was_changed(installed: Path) -> None:
    changed = installed / "etc/ebpf-supervisor/ebpf.d.conf"
    changed.write_text("[global]\n    update every = 5\n")
    assert make("install", installed).returncode == 0
    assert changed.read_text() == "[global]\n    update every = 5\n"

    done = make("uninstall", installed)
    assert done.returncode == 0, done.stderr
    assert "changed by you, and left" in done.stdout
    assert files(installed) == {"etc/ebpf-supervisor/ebpf.d.conf"}
    assert not (installed / TREE).exists()
    changed.unlink()
    assert make("uninstall", installed).returncode == 0  # nothing to do is no error
    assert not (installed / "etc/ebpf-supervisor").exists()
    assert files(installed) == set()


# ---- what systemd says


def analyze(*words: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there (Debian: systemd)")
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a command that is there: it is not installed on the machine that tests."""
    text = (ROOT / "systemd/ebpf-supervisor.service").read_text()
    command = sys.executable.replace("python3", "python")
    path = tmp_path / "ebpf-supervisor.service"
    text = text.replace("/usr/local/lib/ebpf-supervisor/bin/ebpf-supervisor", command)
    path.write_text(text.replace("Documentation=file:/usr/local", "Documentation=file:/usr"))
    return path


def test_the_unit_passes_systemds_check_without_a_word(unit: Path) -> None:
    answer = analyze("verify", "--man=no", str(unit))
    assert (answer.returncode, answer.stdout) == (0, "")
    assert [line for line in answer.stderr.splitlines() if "ebpf-supervisor" in line] == []


def test_the_units_exposure_is_low_and_what_is_left_of_it_is_explained_line_by_line(unit: Path) -> None:
    answer = analyze("security", "--offline=yes", f"--threshold={int(EXPOSURE_MOST * 10)}", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", answer.stdout)
    assert found, answer.stdout + answer.stderr
    assert float(found[1]) <= EXPOSURE_MOST
    assert answer.returncode == 0
    explained = unit.read_text().partition("# ---- what is left open")[2]
    marked = re.findall(r"^✗ (\S+)", answer.stdout, re.MULTILINE)
    assert [name for name in marked if name not in explained] == []


def test_sysusers_and_tmpfiles_are_understood(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for tool, file, words in (
        ("systemd-sysusers", "ebpf-supervisor.sysusers", ()),
        ("systemd-tmpfiles", "ebpf-supervisor.tmpfiles", ("--create", "--remove")),
    ):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not there (Debian: systemd)")
        answer = subprocess.run(
            [tool, f"--root={tmp_path}", *words, str(ROOT / "systemd" / file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert answer.returncode == 0, answer.stderr
    assert "ebpf-supervisor:x:" in (tmp_path / "etc/passwd").read_text()


def test_the_selinux_module_is_built_by_the_standard_tools(tmp_path: Path) -> None:
    for tool, package in (("checkmodule", "checkpolicy"), ("semodule_package", "semodule-utils")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not there (Debian: {package})")
    shutil.copytree(ROOT / "systemd/selinux", tmp_path / "selinux")
    answer = subprocess.run(
        ["make", "-C", str(tmp_path / "selinux")], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    assert (tmp_path / "selinux/ebpf_supervisor.pp").stat().st_size > 0


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an installation is root's")
