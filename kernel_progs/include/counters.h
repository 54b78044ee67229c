// Counters of one program: a row of u64 for each slot, only ever added to. Needs ROW_COLUMNS from the program:
// 1, 2, 4, 8, 16 or 24, so that no row lies across more cache lines than it must; a row of less than 8 shares
// its line with its neighbours', which is for counters that change rarely. Needs SLOTS and SHARDS from the
// loader. SHARDS, a power of two, is 1 or spreads a slot's row over groups of CPUs, which then do not wait for
// each other's cache lines.
#pragma once
#include "slots.h"

#if ROW_COLUMNS != 1 && ROW_COLUMNS != 2 && ROW_COLUMNS != 4 && ROW_COLUMNS % 8 || ROW_COLUMNS > 24
#error "ROW_COLUMNS must be 1, 2, 4, 8, 16 or 24"
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
