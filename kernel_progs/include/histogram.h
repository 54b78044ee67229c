// Bins of a histogram of latencies that double from 1 us on.
#pragma once
#include <linux/kconfig.h>

// Bin 0 counts what took less than 1 us, bin n what took 2^(n-1) us and more but below 2^n, the last all above.
#define BINS 24

static __always_inline u32 bin_of(u64 us)
{
    u32 bin = 0;
#pragma unroll
    for (int n = 0; n < BINS - 1; n++)
        bin += us >= 1ULL << n;
    return bin;
}
