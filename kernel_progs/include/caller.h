// The registers of a system call's caller, where the kernel keeps them during the call.
#pragma once
#include <asm/unistd.h>
#include <linux/kconfig.h>
#include <linux/ptrace.h>

#define CALLER(member) __builtin_offsetof(struct pt_regs, member)

static __always_inline u64 register_at(u64 call, u32 offset)
{
    u64 value = 0;
    bpf_probe_read_kernel(&value, sizeof(value), (const void *)(call + offset));
    return value;
}

// Whether the number means what __NR_* says: a 32-bit call has numbers of its own.
static __always_inline int is_native(u64 call)
{
#if defined(ARCH_X86_64)
#ifdef THREAD_INFO_STATUS
    // TS_COMPAT of the thread_info that every task_struct begins with. A 64-bit process can make 32-bit calls
    // too (int 0x80): the kernel tells them by this flag, its registers do not.
    u32 status = 0;
    bpf_probe_read_kernel(&status, sizeof(status), (const void *)(bpf_get_current_task() + THREAD_INFO_STATUS));
    return !(status & 0x0002);
#else
    return (u16)register_at(call, CALLER(cs)) != 0x23; // __USER32_CS
#endif
#else
    return !(register_at(call, CALLER(pstate)) & 0x10); // PSR_MODE32_BIT
#endif
}

// The number, once the call is over and its register holds the result.
static __always_inline u64 number_of(u64 call)
{
#if defined(ARCH_X86_64)
    return register_at(call, CALLER(orig_ax));
#else
    return (u32)register_at(call, CALLER(syscallno));
#endif
}

// What the caller gave, n from 0 on; at the call's end too.
static __always_inline u64 argument(u64 call, const int n)
{
#if defined(ARCH_X86_64)
    return register_at(call, n == 0 ? CALLER(di) : n == 1 ? CALLER(si) : n == 2 ? CALLER(dx)
                           : n == 3 ? CALLER(r10) : n == 4 ? CALLER(r8) : CALLER(r9));
#else
    return register_at(call, n ? CALLER(regs) + n * sizeof(u64) : CALLER(orig_x0));
#endif
}
