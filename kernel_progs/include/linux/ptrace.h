// The registers that a kprobe sees, in the kernel's own order (arch/*/include/asm/ptrace.h).
#pragma once
#include <linux/kconfig.h>

#if defined(ARCH_X86_64)
struct pt_regs {
    u64 r15, r14, r13, r12, bp, bx;
    u64 r11, r10, r9, r8, ax, cx, dx, si, di;
    u64 orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(ARCH_AARCH64)
struct pt_regs {
    u64 regs[31];
    u64 sp, pc, pstate;
    u64 orig_x0;
    s32 syscallno; // of a little-endian kernel
    u32 unused;
};
#else
#error "no register layout for this processor"
#endif
