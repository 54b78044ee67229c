"""A guest with systemd as init: Debian 12, its cloud kernel, under qemu's emulation.

The image is built once, from the machine's own apt sources, into the cache of the guest kernels:

    CACHE/ebpf-supervisor/kernels/systemd/root.img    ext4: Debian, the kernel's modules, and the unit `guest`
                                          initrd      busybox: inserts what the disk needs, and goes there

The unit `guest` mounts a second disk at /guest and runs /guest/run; what that puts into /tmp/results comes
back by a third disk, as a tar archive. What a guest writes to its root is gone with it.
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.guest import kernels
from tests.guest.kernels import GuestKernel, KernelUnavailableError
from tests.guest.machine import ONE_THREAD

KERNEL: Final = "6.1-cloud"
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "make"),
    *("python3", "python3-venv", "python3-bpfcc", "linux-libc-dev"),
)
# What a guest that lives for minutes does not need.
MASKED: Final = (
    *("getty@tty1.service", "getty-static.service", "serial-getty@ttyS0.service", "apt-daily.timer"),
    *("apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service"),
    *("fstrim.timer", "systemd-udev-settle.service"),
)
RESULT_BYTES: Final = 16 << 20
_ROOT_SIZE: Final = "1400M"
_GUEST_UNIT: Final = """\
[Unit]
Description=What this guest is for
After=basic.target
[Service]
Type=oneshot
ExecStartPre=/bin/sh -c 'mkdir -p /guest /tmp/results; mount -o ro /dev/vdb /guest'
ExecStart=/bin/sh -c 'sh /guest/run >/tmp/results/log 2>&1; echo $? >/tmp/results/exit_code'
ExecStopPost=/bin/sh -c 'tar -C /tmp/results -cf /dev/vdc .; sync; echo o >/proc/sysrq-trigger; sleep 60'
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
"""
_INIT: Final = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module; done
n=0; while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do /bin/busybox sleep 0.1; n=$((n+1)); done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""


@dataclass(frozen=True)
class Outcome:
    """exit_code: of /guest/run, None when the guest did not get that far. console: for reading. results: by
    name, what stood in /tmp/results."""

    exit_code: int | None
    console: str
    results: Mapping[str, str]
    seconds: float


def ensure() -> tuple[GuestKernel, Path]:
    """The kernel and the folder of the image, built when there is none. Raises KernelUnavailableError."""
    kernel = kernels.ensure(KERNEL)
    folder = kernels.cache_folder() / "systemd"
    try:
        with kernels.locked(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _build(kernel, folder)
    except OSError as error:
        raise KernelUnavailableError(f"systemd image: {error}") from error
    return kernel, folder


def _build(kernel: GuestKernel, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".systemd-", dir=folder.parent) as name:
        work, root = Path(name), Path(name) / "root"
        made = work / "made"
        made.mkdir()
        kernels.command(
            "mmdebstrap",
            "--variant=minbase",
            "--quiet",
            f"--include={','.join(PACKAGES)}",
            "bookworm",
            str(root),
            kernels.mirror("bookworm"),
        )
        _furnish(root, kernel)
        kernels.command("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(made / "root.img"), _ROOT_SIZE)
        _make_initrd(kernel, work / "initrd", made / "initrd")
        made.rename(folder)


def _furnish(root: Path, kernel: GuestKernel) -> None:
    """The modules, the unit, and nothing that takes time without need."""
    shutil.copytree(kernel.modules, root / "lib/modules" / kernel.version, symlinks=True)
    units = root / "etc/systemd/system"
    (units / "guest.service").write_text(_GUEST_UNIT)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/guest.service").symlink_to("../guest.service")
    for masked in MASKED:
        (units / masked).unlink(missing_ok=True)
        (units / masked).symlink_to("/dev/null")
    (root / "etc/hostname").write_text("guest\n")
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)


def _make_initrd(kernel: GuestKernel, work: Path, initrd: Path) -> None:
    (work / "bin").mkdir(parents=True)
    (work / "modules").mkdir()
    shutil.copy("/bin/busybox", work / "bin/busybox")
    names: list[str] = []
    for module in ("virtio_pci", "virtio_blk", "ext4"):
        base = kernel.modules.parents[2]
        depends = kernels.command("modprobe", "--show-depends", "-d", str(base), "-S", kernel.version, module)
        for line in depends.splitlines():
            kind, _, path = line.partition(" ")
            file = Path(path.strip())
            if kind == "insmod" and file.name not in names:
                names.append(file.name)
                shutil.copy(file, work / "modules" / file.name)
    init = work / "init"
    init.write_text(_INIT.format(modules=" ".join(names)))
    init.chmod(0o755)
    listing = subprocess.run(["find", "."], cwd=work, capture_output=True, check=True).stdout
    with initrd.open("wb") as out:
        subprocess.run(
            ["busybox", "cpio", "-o", "-H", "newc"],
            cwd=work,
            input=listing,
            stdout=out,
            stderr=subprocess.DEVNULL,
            check=True,
        )


def run(tree: Path, timeout_s: float, memory_mb: int = 1536) -> Outcome:
    """Boots a guest whose /guest has the files of `tree`, runs /guest/run there as root, and powers off."""
    kernel, folder = ensure()
    with tempfile.TemporaryDirectory(prefix="systemd-guest-") as name:
        work = Path(name)
        disk, results, console = work / "guest.img", work / "results.img", work / "console"
        kernels.command("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk), "300M")
        results.touch()
        os.truncate(results, RESULT_BYTES)
        started = time.monotonic()
        process = subprocess.Popen(
            _qemu(kernel, folder, disk, results, console, memory_mb),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        seconds = time.monotonic() - started
        found = _unpack(results)
        code = found.get("exit_code", "").strip()
        text = console.read_text(errors="replace") if console.exists() else ""
        return Outcome(int(code) if code else None, text, found, seconds)


def _qemu(
    kernel: GuestKernel, folder: Path, disk: Path, results: Path, console: Path, memory_mb: int
) -> list[str]:
    def drive(path: Path, more: str = "") -> str:
        return f"-drive=file={path},if=virtio,format=raw{more}"

    drives = (drive(folder / "root.img", ",snapshot=on"), drive(disk), drive(results))
    return [
        "qemu-system-x86_64",
        *(*ONE_THREAD, "-cpu", "max", "-smp", "2", "-m", str(memory_mb)),
        *("-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{console}"),
        *("-kernel", str(kernel.image), "-initrd", str(folder / "initrd")),
        *("-append", "console=ttyS0 loglevel=4 mitigations=off systemd.show_status=no panic=-1"),
        *(word for one in drives for word in one.split("=", 1)),
    ]


def _unpack(results: Path) -> dict[str, str]:
    found = {}
    try:
        with tarfile.open(results) as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    found[member.name.removeprefix("./")] = file.read().decode(errors="replace")
    except tarfile.TarError:  # it never came to writing them
        return {}
    return found
