// Time spent in hard interrupts, by vector of the processor and by interrupt of a device.
#include <linux/kconfig.h>

// Rows: the vectors, then the devices' interrupts by number, then the number of those beyond.
#define VECTORS 11
#define INTERRUPTS 1024
#define BEYOND (VECTORS + INTERRUPTS)

// Start times of one CPU, two cache lines of its own: one for each vector, one for the device that is served.
// Handlers run with interrupts disabled, so a CPU serves one device at a time; several handlers of one interrupt
// follow one another.
#define DEVICE VECTORS
#define STRIDE 16

struct table {
    u64 ns[BEYOND + 1]; // of the last row: how many
};

BPF_ARRAY(started_ns, u64, CPUS * STRIDE);
BPF_F_TABLE("array", u32, struct table, spent, 1, MAP_FLAGS);

static __always_inline u64 *start_of(u32 place)
{
    u32 index = bpf_get_smp_processor_id() * STRIDE + place;
    return started_ns.lookup(&index);
}

static __always_inline int begin(u32 place)
{
    u64 *started = start_of(place);
    if (started)
        *started = bpf_ktime_get_ns();
    return 0;
}

static __always_inline void add(u64 number, u64 amount)
{
    u32 only = 0;
    struct table *table = spent.lookup(&only);
    // The compiler shall not take an earlier check of half of the register for this one; the verifier does not.
    asm volatile("" : "+r"(number));
    if (table && number <= BEYOND)
        __sync_fetch_and_add(&table->ns[number], amount);
}

static __always_inline int end(u32 place, u32 number)
{
    u64 *started = start_of(place);
    if (!started || !*started)
        return 0;
    add(number, bpf_ktime_get_ns() - *started);
    *started = 0;
    return 0;
}

static __always_inline int on_vector_entry(u32 vector)
{
    return begin(vector);
}

static __always_inline int on_vector_exit(u32 vector)
{
    return end(vector, vector);
}

static __always_inline int on_handler_entry(void)
{
    return begin(DEVICE);
}

static __always_inline int on_handler_exit(u32 irq)
{
    if (irq < INTERRUPTS)
        return end(DEVICE, VECTORS + irq);
    add(BEYOND, 1);
    return 0;
}
