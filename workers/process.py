"""process: processes and threads born, ended and released, and fork calls that failed, by process."""

import ctypes
import itertools
import os
from collections.abc import Mapping

from supervisor.kernel.maps import TASK_LIVE, Maps, task_column, used_pages
from supervisor.kernel.plans import (
    Hook,
    Plan,
    Target,
    entering,
    function_plan,
    in_task_plans,
    leaving,
    raw_tracepoint_plan,
    syscall_plan,
    task_plans,
    tracepoint_plan,
)
from workers.declaration import Column, Program


def _fork_and_wait() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _fail_to_fork() -> None:
    """clone with CLONE_SIGHAND and without CLONE_VM is refused (clone(2), EINVAL)."""
    ctypes.CDLL(None).syscall(_SYS_CLONE[os.uname().machine], _CLONE_SIGHAND, 0, 0, 0, 0)


_SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "ppc64le": 120, "s390x": 120}
_CLONE_SIGHAND = 0x800

# A new task has its parent as the current one at all of these places. kernel_clone (_do_fork before 5.10)
# does not see the kernel's own io threads.
_CREATE = (
    *in_task_plans(
        raw_tracepoint_plan("on_create", "args[1]", "task:task_newtask"),
        tracepoint_plan("on_create", "args->clone_flags", "task:task_newtask"),
    ),
    function_plan("fexit", "kernel_clone", "on_clone", "kernel_flags(args[0]), (int)args[1]"),
    *(
        Plan(
            "kretprobe",
            (
                Target(symbol, "on_clone_enter", "kernel_flags(PT_REGS_PARM1(args))", mechanism="kprobe"),
                Target(symbol, "on_clone_exit", "(int)PT_REGS_RC(args)"),
            ),
        )
        for symbol in ("kernel_clone", "_do_fork")
    ),
)
_EXIT = (
    *in_task_plans(
        raw_tracepoint_plan("on_exit", "", "sched:sched_process_exit"),
        tracepoint_plan("on_exit", "", "sched:sched_process_exit"),
    ),
    function_plan("fentry", "do_exit", "on_exit"),
    function_plan("kprobe", "do_exit", "on_exit"),
)
# release_task has the task as an argument, and its id only as a field of it: no plan without the tracepoint.
_RELEASE = task_plans("on_release", "sched:sched_process_free")
# clone and clone3 tell thread from process by their flags, which only their entry knows; fork and vfork
# make processes. fork and vfork do not exist on every processor, clone3 came with 5.3. copy_process, which
# they all call, returns the task or an error in its place.
_FORK_FAILURE = (
    function_plan("fexit", "copy_process", "on_fork_failure", "kernel_flags(args[3]), refused(args[4])"),
    Plan(
        "kretprobe",
        (
            Target("copy_process", "on_fork_enter", "kernel_flags(PT_REGS_PARM4(args))", mechanism="kprobe"),
            Target("copy_process", "on_fork_exit", "refused(PT_REGS_RC(args))"),
        ),
    ),
    syscall_plan(
        entering("clone", "on_fork_enter", "argument(call, 0)"),
        entering("clone3", "on_fork_enter", "user_flags((const void *)argument(call, 0))", optional=True),
        leaving("clone", "on_fork_exit"),
        *(leaving(call, "on_fork_exit", optional=True) for call in ("clone3", "fork", "vfork")),
    ),
)


def _states(maps: Maps) -> Mapping[str, int]:
    """Processes that live, and those that have exited and are not yet released."""
    with maps["task"].open(used_pages(maps)) as content:
        exits = task_column(content.bytes, "exit_ns")
        states = task_column(content.bytes, "state")
    zombies = list(itertools.compress(states, exits)).count(TASK_LIVE)
    return {"living": states.count(TASK_LIVE) - zombies, "zombie": zombies}


PROGRAM = Program(
    name="process",
    source="process.bpf.c",
    hooks=(
        Hook("create", _CREATE, _CREATE, exercise=_fork_and_wait, column=0),
        Hook("exit", _EXIT, _EXIT, exercise=_fork_and_wait, column=2),
        Hook("release", _RELEASE, _RELEASE),
        Hook("fork failure", (), _FORK_FAILURE, exercise=_fail_to_fork, column=4),
    ),
    columns=(
        Column("process", "create"),
        Column("thread", "create"),
        Column("exit", "exit"),
        Column("release", "release"),
        Column("process_error", "fork failure", return_mode_only=True),
        Column("thread_error", "fork failure", return_mode_only=True),
    ),
    row_words=8,
    maps=("rows", "task"),
    gauges=_states,
)
