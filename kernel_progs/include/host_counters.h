// Counters of a program that counts for the whole host: one row of u64, only ever added to.
// Needs ROW_COLUMNS from the program. User space takes the rows of every program for pages of them: this is the
// first of the only page.
#pragma once
#include <linux/kconfig.h>

#define ROWS_PER_PAGE 256

struct row {
    u64 column[ROW_COLUMNS];
};

struct row_page {
    struct row row[ROWS_PER_PAGE];
};

BPF_F_TABLE("array", u32, struct row_page, rows, 1, MAP_FLAGS);

static __always_inline void count(u32 column, u64 amount)
{
    u32 only = 0;
    struct row_page *page = rows.lookup(&only);
    if (page)
        __sync_fetch_and_add(&page->row[0].column[column], amount);
}
