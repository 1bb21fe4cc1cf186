#!/bin/sh
# Runs a command in a tree of another Debian as if the machine were one: the first process of a mount and a process
# namespace of its own, with which everything that it mounts and starts goes away. scripts/slurm_versions.py starts it.
#
# usage: in_tree.sh HOW PLACE CHECKOUT COMMAND [ARGUMENT ...]
#
#   HOW       "keep": what the command changes in the tree stays; "try": it does not, and the network is one of its own
#   PLACE     directory with the tree in `tree`, the sandboxes' files in `var`, and a mount point `root`
#   CHECKOUT  the project; it is seen at the same path, and the sandboxes too
set -eu

how=$1 place=$2 checkout=$3
shift 3
root=$place/root

if [ "$how" = keep ]; then
    mount --bind "$place/tree" "$root"
else
    # The upper layer lies in memory; the mount point itself serves as its place before it is covered.
    mount -t tmpfs -o mode=755 tree "$root"
    mkdir "$root/upper" "$root/work"
    ip link set lo up
    mount -t overlay -o "lowerdir=$place/tree,upperdir=$root/upper,workdir=$root/work" tree "$root"
fi
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"

# Sandboxes of the machine end what their users have left by the users' numbers, and see the tree's processes: users that
# are made in the tree have numbers of their own.
sed -i "s/^UID_MIN.*/UID_MIN $FIRST_UID/" "$root/etc/login.defs"

# bind FILE OR DIRECTORY [WHERE]: shows something of the machine in the tree.
bind() {
    where=$root${2:-$1}
    if [ -d "$1" ]; then
        mkdir -p "$where"
    else
        mkdir -p "${where%/*}"
        [ -e "$where" ] || : >"$where"
    fi
    mount --bind "$1" "$where"
}
bind "$checkout"
bind "$place/var"
for file in /etc/hosts /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt; do
    if [ -f "$file" ]; then bind "$(readlink -f "$file")" "$file"; fi
done

# A tree whose own Python is too old gets the machine's, with the libraries it needs in a place of their own: programs
# of the tree never see them. The C library's loader is called by name, and told what the program is called.
if [ -n "${MACHINE_PYTHON-}" ]; then
    bind "$MACHINE_PYTHON" /machine/python
    bind "$MACHINE_LIBRARIES" /machine/lib
    bind "/usr/lib/${MACHINE_PYTHON##*/}"
    bind "$MACHINE_PACKAGES" "/opt/dagster-slurm/lib/${MACHINE_PYTHON##*/}/site-packages"
    wrapper=$root/usr/bin/${MACHINE_PYTHON##*/}
    # shellcheck disable=SC2016  # for the wrapper's shell
    printf '#!/bin/sh\nexec /machine/lib/%s --argv0 "$0" --library-path /machine/lib /machine/python "$@"\n' \
        "$MACHINE_LOADER" >"$wrapper"
    chmod 755 "$wrapper"
    mkdir -p "$root/opt/dagster-slurm/bin"
    ln -sf "/usr/bin/${MACHINE_PYTHON##*/}" "$root/opt/dagster-slurm/bin/python"
    printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$root/opt/dagster-slurm/pyvenv.cfg"
fi

# Not by exec: orphans come to the first process, and a shell that waits takes them off.
chroot "$root" env --chdir="$checkout" "$@"
