"""fd: files opened and closed, and the calls that failed, by process."""

import os

from supervisor.kernel.plans import Hook, entering, function_plan, leaving, syscall_plan
from workers.declaration import Column, Program

# open and creat do not exist on processors younger than they are; openat2 came with 5.6.
_OTHER_OPEN_CALLS = ("openat2", "open", "creat")


def _open_and_close() -> None:
    os.close(os.open("/dev/null", os.O_RDONLY))


# The result is a long on some kernels and an int on others: of an int only half of the register is defined.
OPEN = Hook(
    "open",
    entry=(
        function_plan("fentry", "do_sys_openat2", "on_open", "0"),
        function_plan("kprobe", "do_sys_openat2", "on_open", "0"),
        function_plan("kprobe", "do_sys_open", "on_open", "0"),  # before 5.6
        syscall_plan(
            entering("openat", "on_open", "0"),
            *(entering(call, "on_open", "0", optional=True) for call in _OTHER_OPEN_CALLS),
        ),
    ),
    returning=(
        function_plan(
            "fexit",
            "do_sys_openat2",
            "on_open",
            "(int)args[DO_SYS_OPENAT2_ARGS]",
            field="do_sys_openat2()",
        ),
        function_plan("kretprobe", "do_sys_openat2", "on_open", "(int)PT_REGS_RC(args)"),
        function_plan("kretprobe", "do_sys_open", "on_open", "(int)PT_REGS_RC(args)"),
        syscall_plan(
            leaving("openat", "on_open"),
            *(leaving(call, "on_open", optional=True) for call in _OTHER_OPEN_CALLS),
        ),
    ),
    exercise=_open_and_close,
    column=0,
)

# Since 6.6 (kernel commit 021a160abf62) close(2) takes the file from the table by file_close_fd and never
# comes through close_fd, which still exists. file_close_fd returns the file, or NULL for a bad descriptor.
CLOSE = Hook(
    "close",
    entry=(
        function_plan("fentry", "file_close_fd", "on_close", "0"),
        function_plan("fentry", "close_fd", "on_close", "0"),
        function_plan("kprobe", "file_close_fd", "on_close", "0"),
        function_plan("kprobe", "close_fd", "on_close", "0"),
        function_plan("kprobe", "__close_fd", "on_close", "0"),  # before 5.11
        syscall_plan(entering("close", "on_close", "0")),
    ),
    returning=(
        function_plan("fexit", "file_close_fd", "on_close", "args[1] ? 0 : -1"),
        function_plan("fexit", "close_fd", "on_close", "(int)args[1]"),
        function_plan("kretprobe", "file_close_fd", "on_close", "PT_REGS_RC(args) ? 0 : -1"),
        function_plan("kretprobe", "close_fd", "on_close", "(int)PT_REGS_RC(args)"),
        function_plan("kretprobe", "__close_fd", "on_close", "(int)PT_REGS_RC(args)"),
        syscall_plan(leaving("close", "on_close")),
    ),
    exercise=_open_and_close,
    column=2,
)

PROGRAM = Program(
    name="fd",
    source="fd.bpf.c",
    hooks=(OPEN, CLOSE),
    columns=(
        Column("open", "open"),
        Column("open_error", "open", return_mode_only=True),
        Column("close", "close"),
        Column("close_error", "close", return_mode_only=True),
    ),
    row_words=4,
)
