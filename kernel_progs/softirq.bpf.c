// Time spent in software interrupts, by vector. Softirqs do not nest on a CPU, so one start time for
// each CPU and vector is enough, and a CPU writes its own part of the array only.
#include <linux/kconfig.h>

// Ten vectors exist (include/linux/interrupt.h); 16 words are two cache lines of a CPU's own.
#define VECTORS 10
#define STRIDE 16

BPF_ARRAY(started_ns, u64, CPUS * STRIDE);
BPF_F_TABLE("array", u32, u64, spent_ns, CPUS * STRIDE, MAP_FLAGS);

static __always_inline int on_entry(u32 vector)
{
    u32 index = bpf_get_smp_processor_id() * STRIDE + vector;
    u64 *started = started_ns.lookup(&index);
    if (vector < VECTORS && started)
        *started = bpf_ktime_get_ns();
    return 0;
}

static __always_inline int on_exit(u32 vector)
{
    u32 index = bpf_get_smp_processor_id() * STRIDE + vector;
    u64 *started = started_ns.lookup(&index);
    u64 *spent = spent_ns.lookup(&index);
    if (vector >= VECTORS || !started || !spent || !*started)
        return 0;
    *spent += bpf_ktime_get_ns() - *started;
    *started = 0;
    return 0;
}
