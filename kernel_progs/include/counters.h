// Counters of one program: a row of u64 for each slot, only ever added to. Needs ROW_COLUMNS from the program:
// 1, or an even number. With a power of two or a multiple of 8 no row lies across more cache lines than it must;
// each that is not needed takes 256 KB, and a row may lie across one more line instead. A row of less than 8
// shares its line with its neighbours'. Needs SLOTS and SHARDS from the loader. SHARDS, a power of two, is 1 or
// spreads a slot's row over groups of CPUs, which then do not wait for each other's cache lines.
//
// COLLECT, from the loader too, says at whom an event is counted (the option `collect pid`).
#pragma once
#include "slots.h"

#define COLLECT_PROCESS 0
#define COLLECT_PARENT 1 // the process's parent
#define COLLECT_ALL 2    // the thread

#if COLLECT == COLLECT_PARENT || COLLECT == COLLECT_PROCESS && THREAD_SLOTS
#include "task.h"
#endif

#if ROW_COLUMNS != 1 && ROW_COLUMNS % 2 || ROW_COLUMNS > 24
#error "ROW_COLUMNS must be 1 or an even number of at most 24"
#endif

struct row {
    u64 column[ROW_COLUMNS];
};

struct row_page {
    struct row row[ROWS_PER_PAGE];
};

BPF_F_TABLE("array", u32, struct row_page, rows, SLOTS * SHARDS / ROWS_PER_PAGE, MAP_FLAGS);

static __always_inline struct row *row_at(u32 slot)
{
    u32 index = slot;
    if (SHARDS > 1)
        index = slot * SHARDS + (bpf_get_smp_processor_id() & (SHARDS - 1));
    u32 number = index / ROWS_PER_PAGE;
    struct row_page *page = rows.lookup(&number);
    return page ? &page->row[index % ROWS_PER_PAGE] : 0;
}

// The id of the current task for what is counted: its process's, or its own (COLLECT_ALL).
static __always_inline u32 caller(void)
{
    return COLLECT == COLLECT_ALL ? current_tid() : current_tgid();
}

// The slot in which the events of a task are counted, by its id.
static __always_inline u32 slot_for(u32 id)
{
    u32 slot = slot_of(id);
#if COLLECT == COLLECT_PARENT || COLLECT == COLLECT_PROCESS && THREAD_SLOTS
    struct task *self = task_of(slot);
    if (self && self->state & TASK_THREAD && self->tgid == id) {
        slot = slot_of(self->ppid);
        self = task_of(slot);
    }
#endif
#if COLLECT == COLLECT_PARENT
    // An orphan's events are its own: whoever has its parent's id now has not made it.
    if (self && slot) {
        u32 above = slot_of(self->ppid);
        struct task *parent = task_of(above);
        if (above && parent && parent->tgid == self->ppid && parent->state == TASK_LIVE &&
            parent->start_ns <= self->start_ns)
            slot = above;
    }
#endif
    return slot;
}

static __always_inline struct row *row_of(u32 id)
{
    return row_at(slot_for(id));
}

static __always_inline void add(struct row *row, u32 column, u64 amount)
{
    __sync_fetch_and_add(&row->column[column], amount);
}

static __always_inline void count_at(u32 slot, u32 column, u64 amount)
{
    struct row *row = row_at(slot);
    if (row)
        add(row, column, amount);
}

static __always_inline void count(u32 column, u64 amount)
{
    count_at(slot_for(caller()), column, amount);
}
