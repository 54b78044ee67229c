// Calls that ask for data to be written to disk, by the whole host.
#define ROW_COLUMNS 8
#include "host_counters.h"

enum column { SYNC, SYNCFS, MSYNC, FSYNC, FDATASYNC, SYNC_FILE_RANGE };

static __always_inline int on_call(u32 column)
{
    count(column, 1);
    return 0;
}
