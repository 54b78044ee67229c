// Open and close calls, and those that failed, by process.
#define ROW_COLUMNS 4
#include "counters.h"

enum column { OPEN, OPEN_ERROR, CLOSE, CLOSE_ERROR };

// `ret` is what the call returned, or 0 where the hook is its entry.
static __always_inline int on_open(long ret)
{
    u32 slot = slot_for(caller());
    count_at(slot, OPEN, 1);
    if (ret < 0)
        count_at(slot, OPEN_ERROR, 1);
    return 0;
}

static __always_inline int on_close(long ret)
{
    u32 slot = slot_for(caller());
    count_at(slot, CLOSE, 1);
    if (ret < 0)
        count_at(slot, CLOSE_ERROR, 1);
    return 0;
}
