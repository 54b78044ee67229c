// BCC includes this header before anything else and takes it as the root of a kernel header tree.
// The programs here read hook arguments, return values and tracepoint fields only, so the kernel's
// basic types are all they need of it; sizes are those of every 64-bit Linux.
#pragma once
#define CONFIG_BPF_SYSCALL 1

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;

typedef int pid_t;
typedef u32 uid_t;
typedef u32 dev_t;
typedef u64 sector_t;
typedef unsigned short umode_t;
typedef unsigned long size_t;
typedef long ssize_t;
typedef unsigned long uintptr_t;
typedef unsigned int uint32_t;
typedef u32 __kernel_dev_t;
typedef u8 bool;
