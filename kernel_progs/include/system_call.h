// What the functions made by supervisor/kernel/system_calls.py use. The first argument of the raw tracepoints sys_enter
// and sys_exit is the caller's registers.
#pragma once
#include "caller.h"

// Bit n is set while plan n of the program's system call plans is in use. Written by the loader only.
BPF_ARRAY(system_calls_taken, u64, 1);

// The plans that a call of a number looked for is for.
static __always_inline u64 taken_of(u64 call)
{
    u32 only = 0;
    u64 *taken = system_calls_taken.lookup(&only);
    return taken && *taken && is_native(call) ? *taken : 0;
}
