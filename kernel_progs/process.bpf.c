// Births, exits and releases of tasks, and fork calls that failed, by process.
#define ROW_COLUMNS 8
#include "counters.h"
#include "task_struct.h"

#define CLONE_THREAD 0x00010000

enum column { PROCESS, THREAD, EXIT, RELEASE, PROCESS_ERROR, THREAD_ERROR };

// Flags of the fork calls under way, by task: what sees their end knows the result only. A task has one
// such call at a time; 4,096 of them at once are beyond any scheduler's doing.
BPF_HASH(creating, u32, u64, 4096);
BPF_HASH(failing, u32, u64, 4096);

static __always_inline int on_create(u64 clone_flags)
{
    count(clone_flags & CLONE_THREAD ? THREAD : PROCESS, 1);
    return 0;
}

static __always_inline int on_exit(void)
{
    count(EXIT, 1);
    return 0;
}

// Comes from an RCU callback: the current task is anybody, so the freed task is found by its id.
static __always_inline int on_release(u32 pid)
{
    count_at(slot_for(pid), RELEASE, 1);
    return 0;
}

// struct kernel_clone_args begins with its flags (include/linux/sched/task.h, since 5.3), and so does
// user space's struct clone_args.
static __always_inline u64 kernel_flags(u64 kernel_clone_args)
{
    u64 flags = 0;
    bpf_probe_read_kernel(&flags, sizeof(flags), (const void *)kernel_clone_args);
    return flags;
}

static __always_inline u64 user_flags(const void *clone_args)
{
    u64 flags = 0;
    bpf_probe_read_user(&flags, sizeof(flags), clone_args);
    return flags;
}

static __always_inline int on_clone(u64 clone_flags, long ret)
{
    return ret > 0 ? on_create(clone_flags) : 0;
}

static __always_inline int on_clone_enter(u64 clone_flags)
{
    u32 tid = bpf_get_current_pid_tgid();
    creating.update(&tid, &clone_flags);
    return 0;
}

static __always_inline int on_clone_exit(long ret)
{
    u32 tid = bpf_get_current_pid_tgid();
    u64 *flags = creating.lookup(&tid);
    if (flags) {
        on_clone(*flags, ret);
        creating.delete(&tid);
    }
    return 0;
}

// A pointer of the last 4,095 addresses is an error number (include/linux/err.h).
static __always_inline long refused(u64 pointer)
{
    return pointer >= (u64)-4095 ? -1 : 0;
}

static __always_inline int on_fork_failure(u64 clone_flags, long ret)
{
    if (ret < 0)
        count(clone_flags & CLONE_THREAD ? THREAD_ERROR : PROCESS_ERROR, 1);
    return 0;
}

static __always_inline int on_fork_enter(u64 clone_flags)
{
    u32 tid = bpf_get_current_pid_tgid();
    failing.update(&tid, &clone_flags);
    return 0;
}

// Without flags it is fork or vfork, which make processes, or a call that was under way when the hook came.
static __always_inline int on_fork_exit(long ret)
{
    u32 tid = bpf_get_current_pid_tgid();
    u64 *flags = failing.lookup(&tid);
    on_fork_failure(flags ? *flags : 0, ret);
    if (flags)
        failing.delete(&tid);
    return 0;
}
