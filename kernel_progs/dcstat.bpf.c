// Names looked up in the directory cache, and those that it does not have, by process.
#define ROW_COLUMNS 4
#include "counters.h"

enum column { REFERENCE, SLOW, MISS };

static __always_inline int on_reference(void)
{
    count(REFERENCE, 1);
    return 0;
}

static __always_inline int on_slow(u64 dentry)
{
    u32 slot = slot_for(caller());
    count_at(slot, SLOW, 1);
    if (!dentry)
        count_at(slot, MISS, 1);
    return 0;
}
