// File systems mounted and unmounted, and the calls that failed, by the whole host.
#define ROW_COLUMNS 4
#include "host_counters.h"

enum column { MOUNT, UMOUNT, MOUNT_ERROR, UMOUNT_ERROR };

// `ret` is what the call returned, or 0 where the hook is its entry.
static __always_inline int on_mount(long ret)
{
    count(MOUNT, 1);
    if (ret < 0)
        count(MOUNT_ERROR, 1);
    return 0;
}

static __always_inline int on_umount(long ret)
{
    count(UMOUNT, 1);
    if (ret < 0)
        count(UMOUNT_ERROR, 1);
    return 0;
}
