"""Debian kernels for the guests: fetched once with apt, unpacked into a cache, never installed.

A kernel lies in the cache as its package unpacks it, so that vng finds the modules beside the image
and nothing has to be put under the host's /lib/modules:

    CACHE/ebpf-supervisor/kernels/6.1/boot/vmlinuz-6.1.0-56-amd64
                                      boot/vmlinux-6.1.0-56-amd64      the same, decompressed by us
                                      lib/modules/6.1.0-56-amd64/      with depmod run
    CACHE/ebpf-supervisor/kernels/6.1.lock

What is in the cache stays: delete the folder to get a newer kernel.
"""

import fcntl
import functools
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND_TIMEOUT_S: Final = 300.0

# Since 7.x a kernel is spread over three packages; linux-image only depends on the other two.
PARTS: Final = re.compile(r"linux-(image|binary|modules)-\d\S*")


class KernelUnavailableError(Exception):
    """A guest kernel is not in the cache and cannot be fetched."""


@dataclass(frozen=True)
class Source:
    """Where Debian keeps a kernel: the newest package of this pattern in this suite."""

    suite: str
    package: str


@dataclass(frozen=True)
class GuestKernel:
    """A kernel ready to boot."""

    version: str
    vmlinuz: Path
    modules: Path
    image: Path
    """What to boot: vmlinux where vmlinuz could be decompressed, as the emulator is slow at it (2 s)."""


SOURCES: Final[Mapping[str, Source]] = {
    "5.10": Source("bullseye-security", r"linux-image-5\.10\.0-\d+-amd64"),
    "6.1": Source("bookworm-security", r"linux-image-6\.1\.0-\d+-amd64"),
    "6.1-cloud": Source("bookworm-security", r"linux-image-6\.1\.0-\d+-cloud-amd64"),
    "6.12": Source("bookworm-security", r"linux-image-6\.12\.\d+\+deb12-amd64"),
    "7.2": Source("trixie-backports", r"linux-image-7\.2\.\d+\+deb13-amd64"),
}


def ensure(kernel: str) -> GuestKernel:
    """Return a kernel of SOURCES by its short name, fetching it if the cache has none."""
    if kernel not in SOURCES:
        raise KernelUnavailableError(f"{kernel}: no such guest kernel; known are {', '.join(SOURCES)}")
    home = cache_folder()
    folder = home / kernel
    try:
        # The rename that puts a kernel in place comes last, so what exists is whole and needs no lock.
        if not folder.is_dir():
            home.mkdir(parents=True, exist_ok=True)
            with locked(home / f"{kernel}.lock"):
                if not folder.is_dir():
                    _fetch(SOURCES[kernel], folder)
    except OSError as error:
        raise KernelUnavailableError(f"{kernel}: {error}") from error
    return _describe(folder)


def cache_folder() -> Path:
    """Say where kernels are kept: outside the checkout, so that a clean checkout fetches nothing."""
    base = os.environ.get("EBPF_TEST_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "ebpf-supervisor" / "kernels"


def _describe(folder: Path) -> GuestKernel:
    for modules in sorted(folder.glob("**/lib/modules/*/modules.dep")):
        version = modules.parent.name
        places = [folder / "boot" / f"vmlinuz-{version}", modules.parent / "vmlinuz"]
        for vmlinuz in places:
            if vmlinuz.is_file():
                vmlinux = _vmlinux(vmlinuz)
                image = vmlinux if vmlinux.is_file() else vmlinuz
                return GuestKernel(version, vmlinuz, modules.parent, image)
    raise KernelUnavailableError(f"{folder}: holds no kernel; delete this folder to have it fetched again")


def _fetch(source: Source, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        work, tree = Path(name), Path(name) / "tree"
        apt = _apt_options(source.suite, work)
        command("apt-get", *apt, "update")
        for package in _packages(source, apt):
            command("apt-get", *apt, "download", package, cwd=work)
        tree.mkdir(mode=0o755)
        for archive in sorted(work.glob("*.deb")):
            command("dpkg", "-x", str(archive), str(tree))
        for modules in tree.glob("**/lib/modules/*"):
            # usr/lib/modules in newer packages: depmod looks for lib/modules below the folder it is given.
            command("depmod", "-b", str(modules.parents[2]), modules.name)
        kernel = _describe(tree)
        _decompress(kernel.vmlinuz)
        tree.rename(folder)


def _packages(source: Source, apt: list[str]) -> list[str]:
    """Name the newest matching package and the packages that hold its other parts."""
    found = command("apt-cache", *apt, "pkgnames", "linux-image-").split()
    matching = [name for name in found if re.fullmatch(source.package, name)]
    if not matching:
        raise KernelUnavailableError(f"no package {source.package} in {source.suite}")
    newest = max(matching, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    wanted, waiting = [newest], [newest]
    while waiting:
        depends = command("apt-cache", *apt, "depends", waiting.pop())
        for name in re.findall(r"^\W*Depends: (\S+)", depends, re.MULTILINE):
            if PARTS.fullmatch(name) and name not in wanted:
                wanted.append(name)
                waiting.append(name)
    return wanted


def _apt_options(suite: str, work: Path) -> list[str]:
    """Point apt at one suite and at folders of our own: the machine's lists are neither used nor changed."""
    lists, cache, sources = work / "lists", work / "cache", work / "sources.list"
    (lists / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    sources.write_text(f"deb [signed-by={KEYRING}] {mirror(suite)} {suite} main\n")
    return [
        "-qq",
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=/dev/null",
        f"-oDir::State::lists={lists}",
        "-oDir::State::status=/dev/null",
        f"-oDir::Cache={cache}",
        "-oAPT::Architecture=amd64",
        "-oAPT::Sandbox::User=root",  # _apt cannot write to a cache below /root
    ]


def mirror(suite: str) -> str:
    """Take the mirror's address from the machine's own apt sources."""
    form = ("--no-release-info", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    security = suite.endswith("-security")
    archive = "debian-security" if security else "debian"
    # Targets are named even on a machine that never ran "apt-get update".
    for line in command("apt-get", "indextargets", *form).splitlines():
        uri, _, release = line.partition(" ")
        if uri.rstrip("/").endswith(f"/{archive}") and release.endswith("-security") == security:
            return uri
    raise KernelUnavailableError(f"apt's sources name no Debian mirror for {suite}")


def _decompress(vmlinuz: Path) -> None:
    """Put vmlinux beside vmlinuz, if it is packed with xz (5.10, 6.1); zstd (6.12 on) is quick as it is.

    The boot protocol's header tells where the packed kernel lies: setup_sects (byte 0x1f1) sectors of
    real-mode code and the boot sector, then payload_offset and payload_length (0x248, 0x24c).
    """
    data = vmlinuz.read_bytes()
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = ((data[0x1F1] or 4) + 1) * 512 + offset
    payload = data[start : start + length]
    if payload.startswith(b"\xfd7zXZ\x00"):
        vmlinux = lzma.LZMADecompressor().decompress(payload)
        _vmlinux(vmlinuz).write_bytes(vmlinux)


def _vmlinux(vmlinuz: Path) -> Path:
    return vmlinuz.with_name(vmlinuz.name.replace("vmlinuz", "vmlinux"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if found is None:
        raise KernelUnavailableError(f"{name}: not found")
    return found


def command(name: str, *arguments: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            [_tool(name), *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelUnavailableError(f"{name}: no end after {COMMAND_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise KernelUnavailableError(f"{name}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
