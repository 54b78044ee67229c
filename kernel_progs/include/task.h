// Who has each slot. Written by task.bpf.c only; supervisor/kernel/maps.py has the same layout.
#pragma once
#include "slots.h"

#define COMM_BYTES 16

// What a state is made of. One that is not live is free: its slot may be given again once it has rested.
#define TASK_LIVE 1
#define TASK_THREAD 2 // not a process, but one of a process's further threads (THREAD_SLOTS)

struct task {
    u32 tgid;        // the id of a process; of a thread its own
    u32 ppid;        // the id of its parent; of a thread its process's
    u64 start_ns;    // CLOCK_MONOTONIC at birth; also tells one owner of the slot from the next
    u64 exit_ns;     // the leader has exited, 0 = it lives
    u64 freed_ns;    // the kernel has let go of the whole thread group, 0 = not yet
    u64 cgroup_id;   // in the hierarchy that is followed (supervisor/kernel/cgroup_hierarchy.py), 0 = unknown;
                     // of a thread only what it had at birth: it moves with its process
    char comm[COMM_BYTES];
    u16 state;
    u16 moves;       // grows when cgroup_id changes
    u32 renames;     // grows when comm changes
};

struct task_page {
    struct task task[ROWS_PER_PAGE];
};

BPF_TABLE_PINNED("array", u32, struct task_page, task, SLOTS / ROWS_PER_PAGE, PINS "/task", MAP_FLAGS);

static __always_inline struct task *task_of(u32 slot)
{
    u32 number = slot / ROWS_PER_PAGE;
    struct task_page *page = task.lookup(&number);
    return page ? &page->task[slot % ROWS_PER_PAGE] : 0;
}
