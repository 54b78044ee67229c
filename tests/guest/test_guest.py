"""The guest harness itself: what goes in comes out whole, and nothing is left behind."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.guest import kernels, machine, systemd

KERNEL = "6.1"
LINE_BYTES = 300_000
DEADLINE_S = 20.0
# Longer than a boot on a busy machine.
SILENT_S = 45.0

# Everything that later tests rely on, asked in one boot: emulated boots are dear.
QUESTIONS = f"""
import os, sys
from pathlib import Path

print("x" * {LINE_BYTES})
print(os.getcwd(), Path("/tmp").is_dir(), sorted(os.listdir("/tmp")), os.environ["WITH QUOTES"], sys.argv[1])
print({{line.split()[2] for line in open("/proc/mounts") if line.startswith(("tmpfs /run ", "tmpfs /tmp "))}})
for kind in "debugfs tracefs bpf cgroup2".split():
    print(kind, any(line.split()[2] == kind for line in open("/proc/mounts")))
for folder in "/run /tmp /root".split():
    Path(folder, "mark").write_text("writable")
print("do_sys_openat2" in Path("/sys/kernel/tracing/available_filter_functions").read_text())
print(Path("/dev/vda").is_block_device())
with open("/dev/vda", "r+b", buffering=0) as disk:
    disk.write(b"guest".ljust(512))
    os.fsync(disk)
import bcc
print(os.uname().release, bcc.__file__, file=sys.stderr)
sys.exit(7)
"""


def guests_of(shared: Path) -> list[int]:
    """Find qemu processes that were given this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu" in command[0] and any(f"path={shared},".encode() in word for word in command):
            found.append(int(entry.name))
    return found


def names_in_guest_tmp(shared: Path) -> set[str]:
    """Name what the guest's own /tmp holds: the way to the folders that must be visible below it."""
    visible = [shared, machine.CHECKOUT, kernels.cache_folder()]
    return {path.parts[2] for path in visible if path.parts[1] == "tmp"}


@pytest.fixture(scope="module")
def guest() -> kernels.GuestKernel:
    if reason := machine.available(KERNEL):
        pytest.skip(reason)
    return kernels.ensure(KERNEL)


@pytest.mark.guest
def test_exit_code_and_output_come_back_whole(guest: kernels.GuestKernel, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    env: Mapping[str, str] = {"WITH QUOTES": 'it\'s "$HOME"'}
    argv = ["/usr/bin/python3", "-c", QUESTIONS, "a 'b' $c\n"]

    result = machine.run(guest, argv, shared=tmp_path / "shared", timeout_s=150, disks=[disk], env=env)

    assert result.exit_code == 7, result.console + result.stderr.read_text()
    lines = result.stdout.read_text().split("\n")
    assert lines[0] == "x" * LINE_BYTES
    assert lines[1:] == [
        f"{machine.CHECKOUT} True {sorted(names_in_guest_tmp(tmp_path))} it's \"$HOME\" a 'b' $c",
        "",
        "{'tmpfs'}",
        *(f"{kind} True" for kind in ("debugfs", "tracefs", "bpf", "cgroup2")),
        "True",
        "True",
        "",
    ]
    assert result.stderr.read_text().startswith(guest.version)
    assert disk.read_bytes().startswith(b"guest")
    assert not Path("/tmp/mark").exists()
    assert guests_of(tmp_path / "shared") == []


@pytest.mark.guest
def test_command_that_hangs_is_ended_at_the_deadline(guest: kernels.GuestKernel, tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", "sleep 1000"]

    result = machine.run(guest, argv, shared=tmp_path, timeout_s=DEADLINE_S)

    assert result.exit_code is None
    assert guests_of(tmp_path) == []


@pytest.mark.guest
def test_guest_that_writes_no_more_is_ended_and_its_console_kept(
    guest: kernels.GuestKernel, tmp_path: Path
) -> None:
    argv = ["/bin/sh", "-c", "echo begun; echo '<0>last words' > /dev/kmsg; sleep 1000"]

    result = machine.run(guest, argv, shared=tmp_path, timeout_s=900, silent_s=SILENT_S)

    assert result.exit_code is None
    assert result.stdout.read_text() == "begun\n"
    assert "last words" in result.console
    assert guests_of(tmp_path) == []


@pytest.mark.guest
def test_times_repeat_when_instructions_are_counted(guest: kernels.GuestKernel, tmp_path: Path) -> None:
    loop = "import time\nfor _ in range(3):\n t = time.process_time()\n for i in range(300000): pass\n"
    argv = ["/usr/bin/python3", "-c", loop + " print(time.process_time() - t)"]

    result = machine.run(guest, argv, shared=tmp_path, timeout_s=150, icount=True)

    assert result.exit_code == 0, result.console
    times = [float(line) for line in result.stdout.read_text().split()]
    assert max(times) - min(times) < 0.01 * max(times)


def test_processors_of_a_guest_take_turns_since_patched_code_might_go_unseen(tmp_path: Path) -> None:
    kernel = kernels.GuestKernel("0", tmp_path, tmp_path, tmp_path)
    started_by_vng = machine._qemu_options(False, [], 2, 0)
    started_itself = systemd._qemu(kernel, tmp_path, tmp_path, tmp_path, tmp_path, 2048)

    for words in (started_by_vng, started_itself):
        assert [words[at + 1] for at, word in enumerate(words) if word == "-accel"] == ["tcg,thread=single"]


def test_unknown_kernel_is_refused_by_name() -> None:
    with pytest.raises(kernels.KernelUnavailableError, match=r"2\.4.*6\.1"):
        kernels.ensure("2.4")


def test_machine_without_the_kernel_says_so() -> None:
    assert machine.available("2.4") != ""


def test_cached_kernel_is_found_without_any_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_TEST_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    folder = tmp_path / "ebpf-supervisor" / "kernels" / "6.1"
    modules = folder / "lib" / "modules" / "6.1.0-1-amd64"
    modules.mkdir(parents=True)
    (modules / "modules.dep").touch()
    (folder / "boot").mkdir()
    vmlinuz = folder / "boot" / "vmlinuz-6.1.0-1-amd64"
    vmlinuz.touch()

    assert kernels.ensure("6.1") == kernels.GuestKernel("6.1.0-1-amd64", vmlinuz, modules, vmlinuz)


def test_path_that_vng_would_misread_is_refused(tmp_path: Path) -> None:
    kernel = kernels.GuestKernel("0", tmp_path, tmp_path, tmp_path)
    with pytest.raises(ValueError, match="letters, digits"):
        machine.run(kernel, ["true"], shared=tmp_path / "a b", timeout_s=1)
