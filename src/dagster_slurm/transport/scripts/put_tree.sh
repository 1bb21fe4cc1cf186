# shellcheck shell=sh
# put_tree.sh DESTINATION CHECKSUMS [FILES]: a tar stream on stdin becomes the directory DESTINATION, whole or not at
# all. CHECKSUMS is the name, within the tree, of a file in sha256sum's format that lists every other file; FILES is how
# many those are.
destination=$1 checksums=$2 files=${3:-1000}
# Already there: an earlier try arrived and its answer was lost.
[ -d "$destination" ] && exit 0
part=$destination.part.$$
trap 'rm -rf -- "$part"' EXIT
check() {
    [ -z "$1" ] || printf '%s\n' "$1" | sha256sum --check --quiet --strict >&2
}
# Every other file at the same time: of thousands, the check takes longer than all else, and of a few, the processes.
check_all() {
    if [ "$files" -lt 100 ]; then
        sha256sum --check --quiet --strict -- "$checksums" >&2
        return
    fi
    odd=$(sed 'n;d' -- "$checksums") && even=$(sed '1d;n;d' -- "$checksums") || return
    check "$odd" &
    check "$even"
    status=$?
    wait "$!" && return "$status"
}
# Twice: the removal of a neighbour takes an empty parent with it.
mkdir -p -- "${destination%/*}" && mkdir -- "$part" 2>/dev/null ||
    { mkdir -p -- "${destination%/*}" && mkdir -- "$part"; } || exit 74
# -m: with the time of today, or a site that purges old files takes them at once. -p: with the modes as sent;
# without it, tar applies the umask for everybody but root.
tar -xmpf - -C "$part" || exit 74
(cd "$part" && check_all && rm -f -- "$checksums") || exit 65
# mv -T refuses to move into a directory that appeared meanwhile. It may be gone again, where its files are taken from it.
for _ in 1 2 3 4 5 6 7 8; do
    if said=$(mv -T -- "$part" "$destination" 2>&1); then
        trap - EXIT
        exit 0
    fi
    [ ! -d "$destination" ] || exit 0
done
printf '%s\n' "$said" >&2
exit 74
