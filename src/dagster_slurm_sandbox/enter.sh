#!/bin/sh
# Starts a command as if on another host of the cluster.
#
# usage: enter.sh NETNS HOSTNAME STATE CGROUP COMMAND [ARGUMENT ...]
#
#   NETNS     file of the network namespace to enter
#   HOSTNAME  host name inside; "-" keeps the machine's, and its name servers
#   STATE     state directory: its hosts, resolv.conf and etc are seen as /etc/hosts, /etc/resolv.conf and, where
#             there is one, /etc/slurm; each host has a directory `pmix` of its own there
#   CGROUP    directory below the memory and freezer controllers to be seen as their root; "-" for none
#   COMMAND   "-": a node's first process, which sees none but the node's; others enter the node, and end with it
#
# Everything is done by exec: the process that was started is in the end the command itself, or waits for that of a node.
set -eu

if [ "$1" != inside ]; then
    cgroup=$4 apart=
    if [ "$5" = - ]; then
        apart='--pid --fork --kill-child --mount-proc'
        # A container may keep parts of /proc to itself, and then none can be mounted.
        # shellcheck disable=SC2086  # several words
        unshare $apart true 2>/dev/null || apart='--fork --kill-child'
    fi
    set -- inside "$@"
    if [ "$cgroup" != - ]; then
        for controller in memory freezer; do
            echo $$ >"/sys/fs/cgroup/$controller/$cgroup/cgroup.procs"
        done
        # nsenter and not `ip netns exec`, which mounts another /sys over the cgroups.
        # shellcheck disable=SC2086
        exec nsenter --net="$2" unshare --uts --cgroup --mount --propagation slave $apart /bin/sh "$0" "$@"
    fi
    # shellcheck disable=SC2086
    exec nsenter --net="$2" unshare --uts --mount --propagation slave $apart /bin/sh "$0" "$@"
fi

hostname=$3 state=$4 cgroup=$5
shift 5

mount --bind "$state/hosts" /etc/hosts
if [ "$hostname" != - ]; then
    hostname "$hostname"
    # By this programs know a machine (UCX, for memory that it shares with others).
    boot_id=$state/run/boot-id-$hostname
    [ -s "$boot_id" ] || cat /proc/sys/kernel/random/uuid >"$boot_id"
    mount --bind "$boot_id" /proc/sys/kernel/random/boot_id
    # The machine's name servers cannot be reached from here: every look-up would take its full time-out.
    [ ! -e /etc/resolv.conf ] || mount --bind "$state/resolv.conf" /etc/resolv.conf
fi
[ ! -d /etc/slurm ] || mount --bind "$state/etc" /etc/slurm
# Names there are of a machine: MPICH's are made of the numbers of job and step, which every sandbox has from 1 on. What a
# killed world of another has left there was taken for its own ("invalid bandwidth 0.00"), or refused ("Out of memory").
[ "$hostname" = - ] || mount -t tmpfs -o mode=1777 dagster-slurm-shm /dev/shm
# The machine's network devices come and go with every other sandbox, and none of them can be used here; UCX and others
# look for theirs in /sys. Not every container allows it.
if mount -t sysfs dagster-slurm-sys "$state/pmix" 2>/dev/null; then
    for devices in class/net devices/virtual/net; do
        mount --bind "$state/pmix/$devices" "/sys/$devices"
    done
    umount "$state/pmix"
fi
# PMIx makes a directory of one name for a step on every node of it ("File exists", where they have one /tmp).
mount -t tmpfs -o mode=1777,size=64m dagster-slurm-pmix "$state/pmix"
if [ "$cgroup" != - ]; then
    # Debian's slurmd puts every node's job N into one and the same /slurm/uid_U/job_N (it is not built with
    # --enable-multiple-slurmd), where the end of one node's part would end the others'.
    for controller in memory freezer; do
        mount --bind "/sys/fs/cgroup/$controller/$cgroup" "/sys/fs/cgroup/$controller"
    done
fi
[ "$1" = - ] || exec "$@"
# A node's first process is the parent of those that have lost theirs.
sleep infinity &
: >"$state/run/up-$hostname"
while :; do wait; done
