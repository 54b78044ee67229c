// Counters of a program that counts for the whole host: one row of u64, only ever added to.
// Needs ROW_COLUMNS from the program.
#pragma once
#include <linux/kconfig.h>

struct row {
    u64 column[ROW_COLUMNS];
};

BPF_F_TABLE("array", u32, struct row, rows, 1, BPF_F_MMAPABLE);

static __always_inline void count(u32 column, u64 amount)
{
    u32 only = 0;
    struct row *row = rows.lookup(&only);
    if (row)
        __sync_fetch_and_add(&row->column[column], amount);
}
