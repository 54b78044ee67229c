// The id of a task that a raw tracepoint hands over as a pointer. The loader reads the field's offset from the
// kernel's BTF; without it the targets that need it are not compiled.
#pragma once
#include <linux/kconfig.h>

#ifdef TASK_STRUCT_PID
static __always_inline u32 pid_of_task(u64 task)
{
    u32 pid = 0;
    bpf_probe_read_kernel(&pid, sizeof(pid), (const void *)(task + TASK_STRUCT_PID));
    return pid;
}
#endif
