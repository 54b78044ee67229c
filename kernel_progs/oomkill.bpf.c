// Processes that the kernel has killed for want of memory, by the process that was killed.
#define ROW_COLUMNS 1
#include "counters.h"
#include "task_struct.h"

enum column { KILLS };

static __always_inline int on_kill(u32 pid)
{
    count_at(slot_for(pid), KILLS, 1);
    return 0;
}

#ifdef TASK_STRUCT_PID
// The tracepoint hands over the victim's id, and since 6.10 (also in stable kernels before) the victim: no address
// of the kernel is as small as an id.
static __always_inline u32 pid_of_victim(u64 victim)
{
    return victim >> 32 ? pid_of_task(victim) : victim;
}
#endif
