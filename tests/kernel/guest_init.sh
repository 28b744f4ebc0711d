#!/bin/bash
# The first process inside User-Mode Linux: builds a root from the machine's own, runs one command there, halts.
#
#   init=/path/guest_init.sh testbed_out=FOLDER
#
# FOLDER, on the machine, has the file `argv` (the command, each word ended by a zero byte). It gets `log` (its output)
# and `status` (its exit status). It is /out inside, the one place whose files outlive the guest.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8

make_root() {
    local modules
    modules=/usr/lib/uml/modules/$(uname -r)
    # The machine's files are the read-only lower half; what the guest writes is in memory, and ends with it.
    mount -t tmpfs tmpfs /mnt
    insmod "$modules/kernel/fs/overlayfs/overlay.ko"
    mkdir -p /mnt/upper /mnt/work /mnt/root
    mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
    cd /mnt/root || return
    mkdir -p lib/modules out old
    ln -s "$modules" "lib/modules/$(uname -r)"
    # What the machine's own Open vSwitch knows of bridges isn't the guest's.
    rm -f etc/openvswitch/conf.db etc/openvswitch/.conf.db.~lock~
    mount -t proc proc proc
    mount -t sysfs sys sys
    mount -t devtmpfs dev dev
    # Not chroot alone: the kernel looks for modprobe, and that for modules, in the root of the first process.
    pivot_root . old
}

mount_the_rest() {
    local controller
    mkdir -p /dev/pts /dev/shm /run
    mount -t devpts devpts /dev/pts
    mount -t tmpfs shm /dev/shm
    mount -t tmpfs run /run
    mount -t hostfs none /out -o "$1"
    mount -t tmpfs cgroup /sys/fs/cgroup
    for controller in cpu cpuacct memory pids freezer; do
        mkdir "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
    done
    # Machines have it from the start; loaded later, it would change the addresses under a running test.
    modprobe ipv6
    ip link set lo up
}

if [ "${1:-}" = inside ]; then
    mount_the_rest "$2"
    mapfile -d '' argv </out/argv
    "${argv[@]}" >/out/log 2>&1
    echo $? >/out/status
    sync
    echo o >/proc/sysrq-trigger
    sleep 10
else
    mount -t proc proc /proc
    out=$(sed -n 's/.*testbed_out=\([^ ]*\).*/\1/p' /proc/cmdline)
    make_root
    exec chroot . /bin/bash "$out/init" inside "$out" </dev/console >/dev/console 2>&1
fi
