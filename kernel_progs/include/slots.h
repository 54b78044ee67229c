// Slots: where a process is counted.
//
//   slot_of_pid[pid]  -> slot number of the thread group that this task belongs to, 0 = none
//   task[slot]        -> who it is (written by task.bpf.c only)
//   rows[slot]        -> one row of counters in each program that counts per process (counters.h)
//
// An event of a task without a slot is counted in row 0, so host totals stay exact when slots run out.
// The loader passes SLOTS (a number), SLOT_TYPE (u16 or u32), PID_PAGES, and PINS, the folder of its
// private bpffs in which it has pinned the maps that the programs share.
#pragma once
#include <linux/kconfig.h>

#define PIDS_PER_PAGE 1024
#define COMM_BYTES 16

// An array map rounds every element up to 8 bytes: PIDs are packed into pages of 1,024.
struct pid_page {
    SLOT_TYPE slot[PIDS_PER_PAGE];
};

enum task_state { TASK_FREE, TASK_LIVE };

struct task {
    u32 tgid;
    u32 ppid;
    u64 start_ns;    // CLOCK_MONOTONIC at birth; also tells one owner of the slot from the next
    u64 exit_ns;     // the leader has exited, 0 = it lives
    u64 freed_ns;    // the kernel has let go of the whole thread group, 0 = not yet
    u64 cgroup_id;
    char comm[COMM_BYTES];
    u32 state;
    u32 renames;     // grows when comm changes
};

BPF_TABLE_PINNED("array", u32, struct pid_page, slot_of_pid, PID_PAGES, PINS "/slot_of_pid", BPF_F_MMAPABLE);

static __always_inline u32 slot_of(u32 pid)
{
    u32 number = pid / PIDS_PER_PAGE;
    struct pid_page *page = slot_of_pid.lookup(&number);
    return page ? page->slot[pid % PIDS_PER_PAGE] : 0;
}

static __always_inline u32 current_tgid(void)
{
    return bpf_get_current_pid_tgid() >> 32;
}
