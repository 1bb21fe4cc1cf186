# shellcheck shell=sh
# put_trees.sh PART CHECKSUMS DESTINATION...: put_tree.sh for several trees in one tar stream on stdin, in which the first
# lies below 1/, the second below 2/ ... PART is a new directory on the same file system. With some hundred trees,
# what counts is the processes that each costs.
# Another status than 0: some of them may be there, and each is to be put by itself.
part=$1 checksums=$2
shift 2
trap 'rm -rf -- "$part"' EXIT
make_parents() {
    for destination; do
        shift
        set -- "$@" "${destination%/*}"
    done
    mkdir -p -- "$part" "$@"
}
# Twice: the removal of a neighbour takes an empty parent with it.
make_parents "$@" 2>/dev/null || make_parents "$@" || exit 74
tar -xmpf - -C "$part" || exit 74
cd -- "$part" && sha256sum --check --quiet --strict -- "$checksums" >&2 || exit 65
number=0
for destination; do
    number=$((number + 1))
    if [ -d "$destination" ]; then continue; fi
    mv -T -- "$number" "$destination" || [ -d "$destination" ] || exit 74
done
