// How long calls of file systems take, from the beginning to the end of each, as a histogram for each type and kind
// of call. One row for each type. The maps are shared by all parts of the program: each type is loaded by itself.
#include "histogram.h"

enum type { EXT4, XFS, BTRFS, NFS, ZFS, TYPES };
enum call { READ, WRITE, OPEN, SYNC, ATTRIBUTE, CALLS };

// Calls under way, of all threads. What is over is deleted; what never ends, because its end was missed, makes room.
#define UNDER_WAY 8192

struct bins {
    u64 bin[CALLS * BINS];
};

BPF_TABLE_PINNED("array", u32, struct bins, types, TYPES, PINS "/types", MAP_FLAGS);
BPF_TABLE_PINNED("lru_hash", u64, u64, started_ns, UNDER_WAY, PINS "/started_ns", 0);

// A thread can be in calls of several file systems at once (overlayfs above ext4), but once only in each function.
static __always_inline u64 key_of(u32 type, u32 call)
{
    return bpf_get_current_pid_tgid() << 32 | (type * CALLS + call);
}

static __always_inline int on_call(u32 type, u32 call)
{
    u64 key = key_of(type, call), now_ns = bpf_ktime_get_ns();
    started_ns.update(&key, &now_ns);
    return 0;
}

static __always_inline int on_return(u32 type, u32 call)
{
    u64 key = key_of(type, call);
    u64 *started = started_ns.lookup(&key);
    if (!started)
        return 0;
    u64 us = (bpf_ktime_get_ns() - *started) / 1000;
    started_ns.delete(&key);
    u32 bin = bin_of(us);
    struct bins *bins = types.lookup(&type);
    if (bins && bin < BINS)
        __sync_fetch_and_add(&bins->bin[call * BINS + bin], 1);
    return 0;
}
