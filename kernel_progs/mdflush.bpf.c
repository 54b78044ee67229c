// Flushes that md arrays (software RAID) are asked for: a row for each array, by the minor number of its device.
#include "gendisk.h"

#define ARRAYS 1024
#ifndef MD_MAJOR
#define MD_MAJOR 9 // include/uapi/linux/major.h
#endif

// The last one is for arrays beyond.
struct table {
    u64 of_array[ARRAYS + 1];
};

BPF_F_TABLE("array", u32, struct table, flushes, 1, MAP_FLAGS);

// dev: the kernel's own dev_t of the whole array.
static __always_inline int on_flush(u64 dev)
{
    u32 only = 0, array = dev & ((1 << MINOR_BITS) - 1);
    struct table *table = flushes.lookup(&only);
    if (dev >> MINOR_BITS != MD_MAJOR || array > ARRAYS)
        array = ARRAYS;
    if (table)
        __sync_fetch_and_add(&table->of_array[array], 1);
    return 0;
}

// Any bio of any disk.
static __always_inline int on_bio(u64 dev, u64 is_flush)
{
    return is_flush && dev >> MINOR_BITS == MD_MAJOR ? on_flush(dev) : 0;
}
