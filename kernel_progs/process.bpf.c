// Births, exits and releases of tasks, and fork calls that failed, by process.
#define ROW_COLUMNS 8
#include "counters.h"

#define CLONE_THREAD 0x00010000

enum column { PROCESS, THREAD, EXIT, RELEASE, PROCESS_ERROR, THREAD_ERROR };

// Flags of the fork calls under way, by task: their tracepoints at exit know the result only.
// A task has one such call at a time; 10,240 of them at once are beyond any scheduler's doing.
BPF_HASH(clone_flags_of, u32, u64, 10240);

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
    count_at(slot_of(pid), RELEASE, 1);
    return 0;
}

static __always_inline int on_fork_enter(u64 clone_flags)
{
    u32 tid = bpf_get_current_pid_tgid();
    clone_flags_of.update(&tid, &clone_flags);
    return 0;
}

static __always_inline int on_fork_exit(long ret)
{
    u32 tid = bpf_get_current_pid_tgid();
    u64 *flags = clone_flags_of.lookup(&tid);
    // Without flags it is fork or vfork, or a clone that was under way when the hook came.
    if (ret < 0)
        count(flags && *flags & CLONE_THREAD ? THREAD_ERROR : PROCESS_ERROR, 1);
    if (flags)
        clone_flags_of.delete(&tid);
    return 0;
}

static __always_inline u64 read_clone3_flags(const void *user_args)
{
    u64 flags = 0;
    bpf_probe_read_user(&flags, sizeof(flags), user_args);
    return flags;
}
