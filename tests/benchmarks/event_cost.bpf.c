// One event, counted for the process that makes it: not at all, in a slot array, and in a per-CPU hash.
#define ROW_COLUMNS 8
#include "counters.h"

BPF_TABLE("percpu_hash", u32, struct row, by_pid, SLOTS);

static __always_inline int on_event_empty(void)
{
    return 0;
}

static __always_inline int on_event_slots(void)
{
    count(0, 1);
    return 0;
}

static __always_inline int on_event_hash(void)
{
    u32 pid = current_tgid();
    struct row *row = by_pid.lookup(&pid);
    if (row) {
        row->column[0]++;
        return 0;
    }
    struct row first = {};
    first.column[0] = 1;
    by_pid.update(&pid, &first);
    return 0;
}
