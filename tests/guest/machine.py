"""Runs one command in a guest: boot, command, power-off.

The guest is a Debian kernel under qemu's emulation (TCG, no KVM needed) with the host's files as its root,
booted by virtme-ng; enter.sh says what the command finds there. The folder SHARED is the only way out of it:

    SHARED/command      what the guest runs (written here)
    SHARED/stdout       its output, whole; the serial console would mangle long lines
    SHARED/stderr
    SHARED/exit_code    written last; absent if the guest did not get that far
"""

import functools
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.guest.kernels import SYSTEM_PATH, GuestKernel, KernelUnavailableError, ensure

CHECKOUT: Final = Path(__file__).resolve().parents[2]
ENTER: Final = Path(__file__).resolve().with_name("enter.sh")

# Devices of the emulated board that nothing here needs: udev would load their modules, crypto self-tests
# among them, 3 s of boot. A command that wants one still gets it by name.
UNNEEDED_MODULES: Final = (
    "kvm,kvm_amd,kvm_intel,ccp,ahci,libahci,libata,sr_mod,sg,psmouse,evdev,serio_raw,pcspkr,button,"
    "qemu_fw_cfg,i2c_i801,lpc_ich,iTCO_wdt,i6300esb,powernow_k8,acpi_cpufreq,aesni_intel,"
    "ghash_clmulni_intel,sha1_ssse3,sha256_ssse3,sha512_ssse3,crct10dif_pclmul,crc32_pclmul"
)

# A clock that is read without leaving the guest (emulated timers take microseconds a look), and none of what
# protects a processor that guesses or users from each other: nothing here is guessed, and there is one user.
# Not in a guest that counts instructions: what it measures is compared with earlier figures.
QUICK: Final = (
    "clocksource=tsc tsc=reliable no_timer_check mitigations=off init_on_alloc=0 randomize_kstack_offset=off "
    "hardened_usercopy=off lsm=capability audit=0"
)

ENVIRONMENT: Final[Mapping[str, str]] = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": SYSTEM_PATH,
    "PYTHONDONTWRITEBYTECODE": "1",
    "TERM": "dumb",
}

# All virtual processors in one thread. Where each has its own (seen with qemu 7.2), one may go on executing
# the breakpoint that another had put there for a moment, to patch an instruction (tracepoints, static keys),
# though it is no longer in memory: the kernel stands still.
ONE_THREAD: Final = ("-accel", "tcg,thread=single")

# One guest instruction is 2 ns (1 << shift) of guest time; sleep=on lets idle time pass as on a real clock.
ICOUNT: Final = ("-icount", "shift=1,sleep=on")

# How often a guest that runs is looked at.
_LOOK_S: Final = 5.0

# vng hands paths through a shell, qemu's option lists and the kernel's command line, each quoting in its own
# way. That line ends at 2,048 characters, of which these paths are the part that can grow.
PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9_./+@-]{,199}")


@dataclass(frozen=True)
class GuestResult:
    """How a command in a guest ended."""

    exit_code: int | None
    """None: the guest did not finish (deadline, panic, no boot); 128 + n: ended by signal n."""
    console: str
    """What the kernel (warnings and worse) and the machinery said; for reading when something failed."""
    seconds: float
    stdout: Path
    stderr: Path


@functools.cache
def available(kernel: str = "6.1") -> str:
    """Say why this machine cannot boot guests, or "" if it can; fetches the kernel if it is not cached."""
    for tool, package in (
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("modprobe", "kmod"),
        ("udevadm", "udev"),
        ("ip", "iproute2"),
    ):
        if shutil.which(tool, path=_search_path()) is None:
            return f"{tool} not found (Debian's {package})"
    if _vng() is None:
        return "vng not found (virtme-ng on PyPI)"
    if os.geteuid() != 0:
        return "guests need root, to be root inside"
    try:
        ensure(kernel)
    except KernelUnavailableError as error:
        return f"no guest kernel: {error}"
    return ""


def run(
    kernel: GuestKernel | str,
    argv: Sequence[str],
    *,
    shared: Path,
    timeout_s: float,
    cpus: int = 2,
    memory_mb: int = 2048,
    icount: bool = False,
    possible_cpus: int = 0,
    disks: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    silent_s: float = math.inf,
) -> GuestResult:
    """Boot a guest, run argv in it as root with the checkout as working directory, and power off.

    `disks` are raw images: /dev/vda and on; what the guest writes stays in them. `possible_cpus` is how many
    there could be, 0 = no more than there are. With `icount`, guest time is a count of instructions and there
    is one virtual CPU, whatever `cpus` says. After `timeout_s`, or when the command has written nothing for
    `silent_s`, the guest is ended; what it had written by then is in `shared`.
    """
    guest = ensure(kernel) if isinstance(kernel, str) else kernel
    shared = shared.resolve()
    shared.mkdir(parents=True, exist_ok=True)
    for path in (shared, CHECKOUT, guest.image, guest.modules, *disks):
        if not PLAIN_PATH.fullmatch(str(path.absolute())):
            raise ValueError(f"{path}: too long for a guest, or not made of letters, digits and _./+@-")
    stdout, stderr, exit_code = (shared / name for name in ("stdout", "stderr", "exit_code"))
    for old in (stdout, stderr, exit_code):
        old.unlink(missing_ok=True)
    (shared / "command").write_text(_command(argv, {**ENVIRONMENT, **(env or {})}))

    # vng keeps a file in TMPDIR and leaves it there when it is killed.
    with tempfile.TemporaryDirectory(prefix="guest-") as scratch:
        started = time.monotonic()
        console = _boot(
            _vng_command(
                guest,
                shared,
                1 if icount else cpus,
                memory_mb,
                "" if icount else QUICK,
                _qemu_options(icount, disks, cpus, possible_cpus),
            ),
            {**os.environ, "PATH": _search_path(), "TMPDIR": scratch},
            timeout_s,
            Silence(stdout, silent_s),
        )
        seconds = time.monotonic() - started
    code = int(exit_code.read_text()) if exit_code.exists() else None
    return GuestResult(code, console, seconds, stdout, stderr)


def _command(argv: Sequence[str], env: Mapping[str, str]) -> str:
    settings = [f"{name}={value}" for name, value in env.items()]
    return f"cd {shlex.quote(str(CHECKOUT))} && exec env -i {shlex.join([*settings, *argv])}\n"


def _vng_command(
    guest: GuestKernel, shared: Path, cpus: int, memory_mb: int, words: str, qemu_options: Sequence[str]
) -> list[str]:
    vng = _vng()
    if vng is None:
        raise FileNotFoundError("vng not found (virtme-ng on PyPI)")
    entry = ["/bin/sh", str(ENTER), str(shared), str(CHECKOUT), str(guest.modules), guest.version]
    return [
        str(vng),
        "--verbose",  # without it the kernel's console goes nowhere, and a panic with it
        "--append=loglevel=4",
        *(f"--append={word}" for word in words.split()),
        f"--append=modprobe.blacklist={UNNEEDED_MODULES}",
        f"--run={guest.image}",
        "--name=guest",
        "--user=root",
        "--disable-kvm",
        "--force-9p",  # else it waits 5 s for bookworm's virtiofsd, which cannot do what it wants
        f"--cpus={cpus}",
        f"--memory={memory_mb}M",
        "--cwd=/",
        f"--rwdir={shared}",
        "--qemu-opts=" + shlex.join(qemu_options),
        "--exec=" + shlex.join(entry),
    ]


def _qemu_options(icount: bool, disks: Sequence[Path], cpus: int, possible_cpus: int) -> list[str]:
    options = [
        "-nodefaults",
        *("-fsdev", "local,id=hostroot,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=hostroot,mount_tag=hostroot"),
    ]
    for number, disk in enumerate(disks):
        # Not vng's --disk: it lets qemu guess the format, and then the first block cannot be written.
        options += ["-drive", f"if=none,id=guestdisk{number},format=raw,file={disk.absolute()}"]
        options += ["-device", f"virtio-blk-pci,drive=guestdisk{number},serial=guestdisk{number}"]
    if possible_cpus:
        options += ["-smp", f"{cpus},maxcpus={possible_cpus}"]
    return [*options, *ONE_THREAD, *(ICOUNT if icount else ())]


@dataclass
class Silence:
    """Whether a file has been as long as it is for `most_s`: a kernel that stands still writes no more."""

    output: Path
    most_s: float
    _bytes: int = 0
    _since_s: float = field(default_factory=time.monotonic)

    def too_long(self) -> bool:
        now_bytes = self.output.stat().st_size if self.output.exists() else 0
        if now_bytes != self._bytes:
            self._bytes, self._since_s = now_bytes, time.monotonic()
        return time.monotonic() - self._since_s > self.most_s


def _boot(command: Sequence[str], env: Mapping[str, str], timeout_s: float, silence: Silence) -> str:
    """Run vng to its end or to the deadline, and return what it and the guest's console said."""
    process = subprocess.Popen(
        command,
        cwd="/",
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # a pipe: qemu opens it again by name, several times
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline_s = time.monotonic() + timeout_s
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=min(_LOOK_S, max(0, deadline_s - time.monotonic())))
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() >= deadline_s or silence.too_long():
                    output = _kill(process)
                    break
    except BaseException:
        _kill(process)
        raise
    return output.decode(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> bytes:
    """The whole session: vng has not been reaped, so its number cannot have passed to anyone else."""
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    return output


def _vng() -> Path | None:
    beside = Path(sys.executable).with_name("vng")
    if beside.is_file():
        return beside
    found = shutil.which("vng")
    return Path(found) if found else None


def _search_path() -> str:
    """PATH for vng: it calls virtme-run beside itself, and modprobe and depmod from the system's folders."""
    vng = _vng()
    folders = [str(vng.parent)] if vng else []
    return ":".join([*folders, os.environ.get("PATH", ""), SYSTEM_PATH])
