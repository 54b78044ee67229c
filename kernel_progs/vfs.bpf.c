// Files read, written, opened, created, synchronized and removed, by process.
#define ROW_COLUMNS 16
#include "counters.h"

// Most that one call transfers (include/linux/fs.h), and most pieces of a vector (include/uapi/linux/uio.h).
#define MAX_RW_COUNT 0x7ffff000ULL
#define UIO_MAXIOV 1024

#define O_CREAT 0100
#define S_IFMT 0170000
#define S_IFREG 0100000
#define AT_REMOVEDIR 0x200
#define FMODE_CREATED 0x100000 // since 4.19

enum column {
    UNLINK,
    READ,
    READ_ERROR,
    READ_BYTES,
    READ_ASKED,
    WRITE,
    WRITE_ERROR,
    WRITE_BYTES,
    WRITE_ASKED,
    FSYNC,
    FSYNC_ERROR,
    OPEN,
    OPEN_ERROR,
    CREATE,
    CREATE_ERROR
};

// `ret` is what the function or the call returned, or 0 where the hook is its entry.
static __always_inline int on_read(long ret)
{
    struct row *row = row_of(caller());
    if (!row)
        return 0;
    add(row, READ, 1);
    if (ret > 0)
        add(row, READ_BYTES, ret);
    else if (ret < 0)
        add(row, READ_ERROR, 1);
    return 0;
}

static __always_inline int on_write(long ret)
{
    struct row *row = row_of(caller());
    if (!row)
        return 0;
    add(row, WRITE, 1);
    if (ret > 0)
        add(row, WRITE_BYTES, ret);
    else if (ret < 0)
        add(row, WRITE_ERROR, 1);
    return 0;
}

static __always_inline u64 at_most(u64 size)
{
    return size < MAX_RW_COUNT ? size : MAX_RW_COUNT;
}

static __always_inline int on_read_asked(u64 size)
{
    struct row *row = row_of(caller());
    if (row) {
        add(row, READ, 1);
        add(row, READ_ASKED, at_most(size));
    }
    return 0;
}

static __always_inline int on_write_asked(u64 size)
{
    struct row *row = row_of(caller());
    if (row) {
        add(row, WRITE, 1);
        add(row, WRITE_ASKED, at_most(size));
    }
    return 0;
}

struct piece {
    u64 start, size; // struct iovec
};

// Bytes that a caller's vector of so many pieces has room for. A 32-bit caller's pieces are shorter, and two of them
// read as one have a size beyond any call's. Kernels before 5.3 take no loop, and with it not this plan.
static __always_inline u64 size_of(const struct piece *vector, u64 count)
{
    u64 size = 0;
    for (u32 i = 0; i < UIO_MAXIOV; i++) {
        struct piece piece = {};
        if (i >= count || bpf_probe_read_user(&piece, sizeof(piece), vector + i))
            break;
        if (piece.size <= MAX_RW_COUNT)
            size += piece.size;
    }
    return size;
}

static __always_inline int on_unlink(void)
{
    count(UNLINK, 1);
    return 0;
}

// Of the system calls, those that have removed a file: the function is not called for a missing one either.
static __always_inline int on_unlink_call(u64 flags, long ret)
{
    return ret < 0 || flags & AT_REMOVEDIR ? 0 : on_unlink();
}

static __always_inline int on_fsync(long ret)
{
    struct row *row = row_of(caller());
    if (!row)
        return 0;
    add(row, FSYNC, 1);
    if (ret < 0)
        add(row, FSYNC_ERROR, 1);
    return 0;
}

static __always_inline int on_open(long ret)
{
    struct row *row = row_of(caller());
    if (!row)
        return 0;
    add(row, OPEN, 1);
    if (ret < 0)
        add(row, OPEN_ERROR, 1);
    return 0;
}

static __always_inline int on_create(long ret)
{
    struct row *row = row_of(caller());
    if (!row)
        return 0;
    add(row, CREATE, 1);
    if (ret < 0)
        add(row, CREATE_ERROR, 1);
    return 0;
}

// open(2) creates a file without vfs_create, and marks what it has opened. An error number in the file's place is
// no address, and cannot be read.
#ifdef FILE_F_MODE
static __always_inline int on_opened(u64 file)
{
    u32 mode = 0;
    bpf_probe_read_kernel(&mode, sizeof(mode), (const void *)(file + FILE_F_MODE));
    return mode & FMODE_CREATED ? on_create(0) : 0;
}
#endif

static __always_inline int on_open_call(u64 flags, long ret)
{
    return flags & O_CREAT ? on_create(ret) : 0;
}

static __always_inline int on_mknod_call(u64 mode, long ret)
{
    mode &= S_IFMT;
    return !mode || mode == S_IFREG ? on_create(ret) : 0;
}

// The first member of the caller's struct open_how (openat2(2)).
static __always_inline u64 flags_of(u64 how)
{
    u64 flags = 0;
    bpf_probe_read_user(&flags, sizeof(flags), (const void *)how);
    return flags;
}
