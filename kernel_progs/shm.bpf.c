// Calls about System V shared memory, by process.
#define ROW_COLUMNS 4
#include "counters.h"

enum column { GET, AT, DT, CTL };

static __always_inline int on_call(u32 column)
{
    count(column, 1);
    return 0;
}
