"""vfs: files read, written, opened, created, synchronized and removed, by process."""

import os
import stat

from supervisor.kernel import namespace
from supervisor.kernel.plans import (
    WRAPPER_RESULT,
    Hook,
    Mechanism,
    Plan,
    Target,
    entering,
    function_plan,
    leaving,
    syscall_plan,
    wrapper_plans,
)
from workers.declaration import Column, Program

_READ_CALLS = ("read", "pread64", "readv", "preadv")
_WRITE_CALLS = ("write", "pwrite64", "writev", "pwritev")


# How many calls may wait at once. In read(2), for a terminal, a pipe or a socket, there are many on any
# machine; in open(2) and fsync(2), for the other end of a FIFO or a slow disk, some.
_MANY = 4096
_SOME = 256
_SIZE = "PT_REGS_PARM3(args)"
_SIZE_OF_VECTOR = "size_of((const struct piece *)PT_REGS_PARM2(args), PT_REGS_PARM3(args))"


def _transfer_hook(name: str, calls: tuple[str, ...], column: int) -> Hook:
    """Reads or writes. vfs_X has all calls with one buffer, vfs_Xv all with a vector of them, and neither
    calls the other, on every kernel tried (5.10 to 7.2). sendfile, splice, copy_file_range and io_submit pass
    neither.

    Bytes are the result, so trampolines are at the exit in entry mode too. Kprobes of entry mode have the
    size asked for.
    """
    handler, asked = f"on_{name}", f"on_{name}_asked"
    single, vector = f"vfs_{name}", f"vfs_{name}v"
    trampolines = Plan(
        "fexit", (Target(single, handler, "(long)args[4]"), Target(vector, handler, "(long)args[5]"))
    )
    ends = syscall_plan(
        *(leaving(call, handler) for call in calls), leaving(f"p{name}v2", handler, optional=True)
    )
    return Hook(
        name,
        entry=(
            trampolines,
            Plan("kprobe", (Target(single, asked, _SIZE), Target(vector, asked, _SIZE_OF_VECTOR))),
            ends,
        ),
        returning=(
            trampolines,
            Plan(
                "kretprobe",
                tuple(
                    Target(function, handler, "PT_REGS_RC(args)", at_once=_MANY)
                    for function in (single, vector)
                ),
            ),
            ends,
        ),
        exercise=_read if name == "read" else _write,
        column=column,
        events=2,
    )


def _read() -> None:
    with open("/dev/zero", "rb", buffering=0) as zero:
        os.read(zero.fileno(), 1)
        os.readv(zero.fileno(), [bytearray(1)])


def _write() -> None:
    with open("/dev/null", "wb", buffering=0) as null:
        os.write(null.fileno(), b"x")
        os.writev(null.fileno(), [b"x"])


def _unlink() -> None:
    """In the loader's own bpffs, which nobody else sees."""
    link = namespace.BPFFS / "to_be_removed"
    link.symlink_to("nowhere")
    link.unlink()


def _fsync() -> None:
    """Of a file that is memory only, so that nothing is written."""
    fd = os.memfd_create("vfs")
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)


def _open() -> None:
    os.close(os.open("/dev/null", os.O_RDONLY))


def _create() -> None:
    """By both of the ways in which the kernel makes files."""
    with namespace.scratch() as folder:
        os.mknod(folder / "by_mknod", stat.S_IFREG | 0o600)
        os.close(os.open(folder / "by_open", os.O_CREAT | os.O_WRONLY))


_UNLINK = (
    function_plan("fentry", "vfs_unlink", "on_unlink"),
    function_plan("kprobe", "vfs_unlink", "on_unlink"),
    syscall_plan(
        leaving("unlinkat", "on_unlink_call", "argument(call, 2), ret"),
        leaving("unlink", "on_unlink_call", "0, ret", optional=True),
    ),
)
UNLINK = Hook("unlink", _UNLINK, _UNLINK, exercise=_unlink, column=0)


def _fsync_plans(mechanism: Mechanism, ret: str) -> tuple[Plan, ...]:
    calls = {"fsync": ("on_fsync", ret), "fdatasync": ("on_fsync", ret)}
    return wrapper_plans(mechanism, calls, at_once=_SOME)


# The compiler puts vfs_fsync, and on some kernels vfs_fsync_range, into the two system calls that use them: a
# hook there sees none of the calls, or fsync(2) and not fdatasync(2) (measured, 5.10 to 7.2).
FSYNC = Hook(
    "fsync",
    entry=(
        *_fsync_plans("fentry", "0"),
        *_fsync_plans("kprobe", "0"),
        syscall_plan(entering("fsync", "on_fsync", "0"), entering("fdatasync", "on_fsync", "0")),
    ),
    returning=(
        *_fsync_plans("fexit", WRAPPER_RESULT),
        *_fsync_plans("kretprobe", "PT_REGS_RC(args)"),
        syscall_plan(leaving("fsync", "on_fsync"), leaving("fdatasync", "on_fsync")),
    ),
    exercise=_fsync,
    column=9,
    events=2,
)

OPEN = Hook(
    "open",
    entry=(
        function_plan("fentry", "vfs_open", "on_open", "0"),
        function_plan("kprobe", "vfs_open", "on_open", "0"),
        syscall_plan(
            entering("openat", "on_open", "0"),
            *(entering(call, "on_open", "0", optional=True) for call in ("openat2", "open", "creat")),
        ),
    ),
    returning=(
        function_plan("fexit", "vfs_open", "on_open", "(int)args[2]"),
        Plan("kretprobe", (Target("vfs_open", "on_open", "(int)PT_REGS_RC(args)", at_once=_SOME),)),
        syscall_plan(
            leaving("openat", "on_open"),
            *(leaving(call, "on_open", optional=True) for call in ("openat2", "open", "creat")),
        ),
    ),
    exercise=_open,
    column=11,
)

# vfs_create makes the files of mknod(2), overlayfs and nfsd. open(2) makes its own without it; what it has
# opened tells. The function that opens was do_filp_open before 7.0.
_OPENED = tuple(
    Target(function, "on_opened", "args[3]", mechanism="fexit", field="file.f_mode")
    for function in ("do_file_open", "do_filp_open")
)
_OPENING = Target("vfs_open", "on_opened", "PT_REGS_PARM2(args)", mechanism="kprobe", field="file.f_mode")
_MADE = Target("vfs_create", "on_create", "(int)args[VFS_CREATE_ARGS]", field="vfs_create()")


def _creating_calls(ret: str) -> Plan:
    """The calls that may make a file: whether there was one already, they do not tell."""
    on = entering if ret == "0" else leaving
    return syscall_plan(
        on("openat", "on_open_call", f"argument(call, 2), {ret}"),
        on("mknodat", "on_mknod_call", f"argument(call, 2), {ret}"),
        on("openat2", "on_open_call", f"flags_of(argument(call, 2)), {ret}", optional=True),
        on("open", "on_open_call", f"argument(call, 1), {ret}", optional=True),
        on("creat", "on_create", ret, optional=True),
        on("mknod", "on_mknod_call", f"argument(call, 1), {ret}", optional=True),
    )


CREATE = Hook(
    "create",
    entry=(
        *(Plan("fentry", (Target("vfs_create", "on_create", "0"), opened)) for opened in _OPENED),
        Plan("kprobe", (Target("vfs_create", "on_create", "0"), _OPENING)),
        _creating_calls("0"),
    ),
    returning=(
        *(Plan("fexit", (_MADE, opened)) for opened in _OPENED),
        Plan("kretprobe", (_OPENING, Target("vfs_create", "on_create", "(int)PT_REGS_RC(args)"))),
        _creating_calls("ret"),
    ),
    exercise=_create,
    column=13,
    events=2,
)

# What was transferred is not known at the entry, where a kprobe of entry mode is.
_KNOWING: tuple[Mechanism, ...] = ("fexit", "kretprobe", "tracepoint")

PROGRAM = Program(
    name="vfs",
    source="vfs.bpf.c",
    hooks=(
        UNLINK,
        _transfer_hook("read", _READ_CALLS, 1),
        _transfer_hook("write", _WRITE_CALLS, 5),
        FSYNC,
        OPEN,
        CREATE,
    ),
    columns=(
        Column("unlink", "unlink"),
        Column("read", "read"),
        Column("read_error", "read", return_mode_only=True),
        Column("read_bytes", "read", plans=_KNOWING),
        Column("read_asked", "read", plans=("kprobe",)),
        Column("write", "write"),
        Column("write_error", "write", return_mode_only=True),
        Column("write_bytes", "write", plans=_KNOWING),
        Column("write_asked", "write", plans=("kprobe",)),
        Column("fsync", "fsync"),
        Column("fsync_error", "fsync", return_mode_only=True),
        Column("open", "open"),
        Column("open_error", "open", return_mode_only=True),
        Column("create", "create"),
        Column("create_error", "create", return_mode_only=True),
    ),
    row_words=16,
)
