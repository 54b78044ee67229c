"""oomkill: processes that the kernel has killed for want of memory."""

from supervisor.kernel.plans import Hook, function_plan, raw_tracepoint_plan, tracepoint_plan
from workers.declaration import Column, Program

# The tracepoint is the kernel's own word for it; __oom_kill_process, which is static, has the victim as its
# first argument.
_KILL = (
    raw_tracepoint_plan("on_kill", "pid_of_victim(args[0])", "oom:mark_victim", field="task_struct.pid"),
    tracepoint_plan("on_kill", "args->pid", "oom:mark_victim"),
    function_plan("fentry", "__oom_kill_process", "on_kill", "pid_of_task(args[0])", field="task_struct.pid"),
    function_plan(
        "kprobe", "__oom_kill_process", "on_kill", "pid_of_task(PT_REGS_PARM1(args))", field="task_struct.pid"
    ),
)

PROGRAM = Program(
    name="oomkill",
    source="oomkill.bpf.c",
    hooks=(Hook("kill", _KILL, _KILL),),
    columns=(Column("kills", "kill"),),
)
