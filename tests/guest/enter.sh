#!/bin/sh
# Runs inside the guest, started by vng: enter.sh SHARED CHECKOUT MODULES VERSION
#
# vng's root is the host's over 9p without any caching, which makes loading LLVM (so "import bcc") take 12 s,
# and it is read-only in most places. This makes a root of our own out of the same files:
#
#   /            overlay: a second 9p mount of the host's root, cached, below a tmpfs; writable everywhere
#   /tmp /run    fresh tmpfs, so that tests which count kernel functions meet a plain file system there
#   SHARED       the host's folder, uncached and writable, at the same path
#
# then runs SHARED/command in it and leaves stdout, stderr and exit_code in SHARED.
set -eu

shared=$1 checkout=$2 modules=$3 version=$4
host=/run/host root=/run/root upper=/run/upper

mkdir -p $host $root $upper
mount -t tmpfs -o mode=0755 tmpfs $upper
mkdir $upper/upper $upper/work
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose hostroot $host
mount -t overlay -o lowerdir=$host,upperdir=$upper/upper,workdir=$upper/work root $root

# vng points these at its virtio ports, past our redirections.
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr

for folder in proc sys dev; do
    mount --rbind /$folder $root/$folder
done
mount -t tmpfs -o mode=0755 tmpfs $root/run
mount -t tmpfs -o mode=1777 tmpfs $root/tmp
mkdir -p $root/run/lock $root/run/udev
mount --bind /run/udev $root/run/udev

# What the fresh mounts would hide, if it lies below one of them.
for folder in "$checkout" "$modules"; do
    if [ ! -e "$root$folder" ]; then
        mkdir -p "$root$folder"
        mount --bind "$host$folder" "$root$folder"
    fi
done
mkdir -p "$root$shared" $root/lib/modules
mount --bind "$shared" "$root$shared"
ln -sfn "$modules" "$root/lib/modules/$version"

cd $root
mount --move . /
exec chroot . /bin/sh -eu -c '
    cd /
    mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
    mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
    mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
    mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
    ulimit -l unlimited
    code=0
    /bin/sh "$1/command" </dev/null >"$1/stdout" 2>"$1/stderr" || code=$?
    echo $code >"$1/exit_code.new"
    mv "$1/exit_code.new" "$1/exit_code"
' enter "$shared"
