// Counters of one program: a row of u64 for each slot, 64-byte aligned, only ever added to.
// Needs ROW_COLUMNS (a multiple of 8) from the program, SLOTS and SHARDS from the loader. SHARDS, a power of
// two, is 1 or spreads a slot's row over groups of CPUs, which then do not wait for each other's cache lines.
#pragma once
#include "slots.h"

struct row {
    u64 column[ROW_COLUMNS];
};

BPF_F_TABLE("array", u32, struct row, rows, SLOTS * SHARDS, BPF_F_MMAPABLE);

static __always_inline struct row *row_at(u32 slot)
{
    u32 index = slot;
    if (SHARDS > 1)
        index = slot * SHARDS + (bpf_get_smp_processor_id() & (SHARDS - 1));
    return rows.lookup(&index);
}

static __always_inline struct row *row_of(u32 pid)
{
    return row_at(slot_of(pid));
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
    count_at(slot_of(current_tgid()), column, amount);
}
