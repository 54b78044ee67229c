// Latency of block requests, from issue to completion, as a histogram for each device.
#include "gendisk.h"
#include "histogram.h"

// 256 disks with requests. The last 10,240 places that were read or written; the requests in flight, of which
// even large hosts have fewer, are the youngest of them.
#define DISKS 256
#define PLACES 10240

// place: the address of the kernel's own request, which is unlike any other in flight; where the kernel does not
// tell of its structures, the sector.
struct request {
    u64 place;
    u64 dev;
};

// Requests for one sector cannot be told apart, and several can be in flight at once (two readers of it). So
// they are counted, and nothing is deleted: a completion on one CPU and an issue on another would delete each
// other's. The least recently used places make room.
struct traffic {
    u64 issued_ns;   // of the oldest request in flight
    u64 issued;
    u64 completed;
};

struct disk {
    u64 dev;         // the kernel's dev_t + 1, 0 = the row is free
    u64 lost;        // requests that could not be noted
    u64 bin[BINS];
};

BPF_TABLE("lru_hash", struct request, struct traffic, traffic_at, PLACES);
BPF_HASH(row_of_dev, u64, u32, DISKS);
BPF_QUEUE(free_rows, u32, DISKS);
BPF_F_TABLE("array", u32, struct disk, disks, DISKS, MAP_FLAGS);
// A row whose device has gone: the worker offers it (workers/disk.py), and the next device that finds no other takes
// it. 0 = there is none.
BPF_F_TABLE("array", u32, u64, gone_row, 1, MAP_FLAGS);

// On whichever CPU the old device's entry is deleted, the row is taken.
static __always_inline u32 take_gone_row(void)
{
    u32 only = 0;
    u64 *offered = gone_row.lookup(&only);
    u32 row = offered ? *offered : 0;
    struct disk *gone = disks.lookup(&row);
    if (!offered || !row || !gone || !gone->dev)
        return 0;
    u64 dev = gone->dev - 1;
    if (row_of_dev.delete(&dev))
        return 0;
    *offered = 0;
    return row;
}

static __always_inline u32 take_row(u64 dev)
{
    u32 row = 0;
    if (free_rows.pop(&row))
        row = take_gone_row();
    if (!row)
        return 0;
    // Another CPU may be doing the same: the one whose insert fails gives its row back.
    if (row_of_dev.insert(&dev, &row)) {
        free_rows.push(&row, 0);
        u32 *known = row_of_dev.lookup(&dev);
        return known ? *known : 0;
    }
    struct disk *fresh = disks.lookup(&row);
    if (fresh)
        fresh->dev = dev + 1;
    return row;
}

// A device's row, taken at its first request. Row 0 is for devices beyond DISKS.
static __always_inline struct disk *disk_of(u64 dev)
{
    u32 *known = row_of_dev.lookup(&dev);
    u32 row = known ? *known : take_row(dev);
    return disks.lookup(&row);
}

static __always_inline int on_issue(u64 dev, u64 place)
{
    struct request key = {.place = place, .dev = dev};
    struct traffic first = {.issued_ns = bpf_ktime_get_ns(), .issued = 1};
    if (!dev)
        return 0;
    struct traffic *known = traffic_at.lookup(&key);
    if (!known && traffic_at.insert(&key, &first)) {
        // Another CPU has just noted the same place, or there was no room.
        known = traffic_at.lookup(&key);
        struct disk *disk = disk_of(dev);
        if (!known && disk)
            __sync_fetch_and_add(&disk->lost, 1);
    }
    if (!known)
        return 0;
    if (known->issued == known->completed)
        known->issued_ns = first.issued_ns;
    __sync_fetch_and_add(&known->issued, 1);
    return 0;
}

// A request that is queued again will be issued again.
static __always_inline int on_requeue(u64 dev, u64 place)
{
    struct request key = {.place = place, .dev = dev};
    struct traffic *known = traffic_at.lookup(&key);
    if (known && known->issued != known->completed)
        __sync_fetch_and_add(&known->completed, 1);
    return 0;
}

// The later parts of a request that completes in parts have other sectors, or come when it is over, and are not found.
static __always_inline int on_complete(u64 dev, u64 place)
{
    struct request key = {.place = place, .dev = dev};
    struct traffic *known = traffic_at.lookup(&key);
    if (!known || known->issued == known->completed)
        return 0;
    u64 us = (bpf_ktime_get_ns() - known->issued_ns) / 1000;
    __sync_fetch_and_add(&known->completed, 1);
    struct disk *disk = disk_of(dev);
    u32 bin = bin_of(us);
    if (disk && bin < BINS)
        __sync_fetch_and_add(&disk->bin[bin], 1);
    return 0;
}
