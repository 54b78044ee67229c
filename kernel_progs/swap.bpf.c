// Pages read from and written to swap, by process.
#define ROW_COLUMNS 2
#include "counters.h"

enum column { READ, WRITE };

static __always_inline int on_read(void)
{
    count(READ, 1);
    return 0;
}

static __always_inline int on_write(void)
{
    count(WRITE, 1);
    return 0;
}
