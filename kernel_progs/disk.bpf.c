// Latency of block requests, from issue to completion, as a histogram for each device.
#include <linux/kconfig.h>

// Bin 0 counts requests below 1 us, bin n those of 2^(n-1) us and more but below 2^n, the last all above.
#define BINS 24

// 256 disks with requests; 10,240 requests in flight are more than the queues of a large host hold.
#define DISKS 256
#define IN_FLIGHT 10240

struct request {
    u64 sector;
    u64 dev;
};

struct flight {
    u64 issued_ns;
    u64 requests;    // equal requests can be in flight together: two readers of one sector
};

struct disk {
    u64 dev;         // the kernel's dev_t + 1, 0 = the row is free
    u64 lost;        // requests that found no room in the in-flight table
    u64 bin[BINS];
};

BPF_HASH(in_flight, struct request, struct flight, IN_FLIGHT);
BPF_HASH(row_of_dev, u64, u32, DISKS);
BPF_QUEUE(free_rows, u32, DISKS);
BPF_F_TABLE("array", u32, struct disk, disks, DISKS, BPF_F_MMAPABLE);

// A device's row, taken at its first request. Row 0 is for devices beyond DISKS.
static __always_inline struct disk *disk_of(u64 dev)
{
    u32 row = 0;
    u32 *known = row_of_dev.lookup(&dev);
    if (known) {
        row = *known;
    } else if (!free_rows.pop(&row)) {
        // Another CPU may be doing the same: the one whose insert fails gives its row back.
        if (row_of_dev.insert(&dev, &row)) {
            free_rows.push(&row, 0);
            known = row_of_dev.lookup(&dev);
            row = known ? *known : 0;
        }
        struct disk *fresh = disks.lookup(&row);
        if (fresh && row)
            fresh->dev = dev + 1;
    }
    return disks.lookup(&row);
}

static __always_inline u32 bin_of(u64 us)
{
    u32 bin = 0;
#pragma unroll
    for (int n = 0; n < BINS - 1; n++)
        bin += us >= 1ULL << n;
    return bin;
}

static __always_inline int on_issue(u64 dev, u64 sector)
{
    struct request key = {.sector = sector, .dev = dev};
    struct flight *same = in_flight.lookup(&key);
    if (!dev)
        return 0;
    if (same) {
        __sync_fetch_and_add(&same->requests, 1);
        return 0;
    }
    struct flight flight = {.issued_ns = bpf_ktime_get_ns(), .requests = 1};
    if (in_flight.update(&key, &flight)) {
        struct disk *disk = disk_of(dev);
        if (disk)
            __sync_fetch_and_add(&disk->lost, 1);
    }
    return 0;
}

static __always_inline void land(struct request *key, struct flight *flight)
{
    if (flight->requests > 1)
        __sync_fetch_and_add(&flight->requests, -1);
    else
        in_flight.delete(key);
}

// A request that is queued again will be issued again.
static __always_inline int on_requeue(u64 dev, u64 sector)
{
    struct request key = {.sector = sector, .dev = dev};
    struct flight *flight = in_flight.lookup(&key);
    if (flight)
        land(&key, flight);
    return 0;
}

static __always_inline int on_complete(u64 dev, u64 sector)
{
    struct request key = {.sector = sector, .dev = dev};
    struct flight *flight = in_flight.lookup(&key);
    if (!flight)
        return 0;
    u64 us = (bpf_ktime_get_ns() - flight->issued_ns) / 1000;
    land(&key, flight);
    struct disk *disk = disk_of(dev);
    u32 bin = bin_of(us);
    if (disk && bin < BINS)
        __sync_fetch_and_add(&disk->bin[bin], 1);
    return 0;
}
