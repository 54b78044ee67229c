// Slots: where a process is counted.
//
//   slot_of_pid[pid]  -> slot number of the thread group that this task belongs to, 0 = none; with THREAD_SLOTS
//                        of the thread itself, as far as there are slots
//   task[slot]        -> who it is (task.h; written by task.bpf.c only)
//   rows[slot]        -> one row of counters in each program that counts per process (counters.h)
//
// An event of a task without a slot is counted in row 0, so host totals stay exact when slots run out.
//
// The elements of these arrays are pages of many rows, so that user space reads a whole array by a few dozen
// look-ups where it cannot map it; the rows are as close to each other as without pages.
//
// The loader passes THREAD_SLOTS (0 or 1), SLOTS (a multiple of ROWS_PER_PAGE), SLOT_TYPE (u16 or u32), PID_PAGES, MAP_FLAGS
// (BPF_F_MMAPABLE or 0, for every array that user space reads), and PINS, the folder of its private bpffs in
// which it has pinned the maps that the programs share.
#pragma once
#include <linux/kconfig.h>

#define PIDS_PER_PAGE 1024

// A look-up copies a page through kernel memory of one piece: 36 KiB for the longest rows.
#define ROWS_PER_PAGE 256

// An array map rounds every element up to 8 bytes: PIDs are packed into pages of 1,024.
struct pid_page {
    SLOT_TYPE slot[PIDS_PER_PAGE];
};

BPF_TABLE_PINNED("array", u32, struct pid_page, slot_of_pid, PID_PAGES, PINS "/slot_of_pid", MAP_FLAGS);

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

static __always_inline u32 current_tid(void)
{
    return bpf_get_current_pid_tgid();
}
