// The number of a disk from the kernel's structures that a request and a bio lead to. The loader reads the fields'
// offsets from the kernel's BTF; a target that needs one that is not there is not compiled.
#pragma once
#include <linux/kconfig.h>

#define MINOR_BITS 20 // of the kernel's own dev_t (include/linux/kdev_t.h)

static __always_inline u64 pointer_at(u64 address)
{
    u64 value = 0;
    bpf_probe_read_kernel(&value, sizeof(value), (const void *)address);
    return value;
}

static __always_inline u32 number_at(u64 address)
{
    u32 value = 0;
    bpf_probe_read_kernel(&value, sizeof(value), (const void *)address);
    return value;
}

#if defined(GENDISK_MAJOR) && defined(GENDISK_FIRST_MINOR)
// 0 for what has no disk.
static __always_inline u64 dev_of_disk(u64 disk)
{
    return disk ? (u64)number_at(disk + GENDISK_MAJOR) << MINOR_BITS | number_at(disk + GENDISK_FIRST_MINOR) : 0;
}

// A request has the pointer itself before 5.17 (commit f3fa33acca9f), its queue has it from 5.15 on.
static __always_inline u64 dev_of_request(u64 request)
{
#if defined(REQUEST_Q) && defined(REQUEST_QUEUE_DISK)
    return dev_of_disk(pointer_at(pointer_at(request + REQUEST_Q) + REQUEST_QUEUE_DISK));
#elif defined(REQUEST_RQ_DISK)
    return dev_of_disk(pointer_at(request + REQUEST_RQ_DISK));
#else
    return 0;
#endif
}

// The whole disk, where a bio is for a partition. From 4.14 to 5.11 (commit 309dca309fc3) a bio has the pointer
// itself.
static __always_inline u64 dev_of_bio(u64 bio)
{
#if defined(BIO_BI_BDEV) && defined(BLOCK_DEVICE_BD_DISK)
    return dev_of_disk(pointer_at(pointer_at(bio + BIO_BI_BDEV) + BLOCK_DEVICE_BD_DISK));
#elif defined(BIO_BI_DISK)
    return dev_of_disk(pointer_at(bio + BIO_BI_DISK));
#else
    return 0;
#endif
}
#endif
