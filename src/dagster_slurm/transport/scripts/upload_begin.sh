# shellcheck shell=sh
# upload_begin.sh DESTINATION DIRECTORY NAME WRITER LEASE_SECONDS KIND HOW: makes the partial file DIRECTORY/NAME.WRITER.part,
# or takes over one that nobody has written to for LEASE_SECONDS, and prints its cksum and size. KIND is `file` or
# `tree`. With HOW `fresh`, what has arrived is thrown away. Prints `there` if a tree has arrived already.
destination=$1 directory=$2 name=$3 part=$2/$3.$4.part lease=$5 kind=$6 how=$7
idle() {
    echo $(($(date +%s) - $(stat -c %Y -- "$1" 2>/dev/null || date +%s)))
}
if [ "$kind" = tree ]; then
    if [ -d "$destination" ]; then
        echo there
        exit 0
    fi
    mkdir -p -- "$directory" || exit 74
fi
# What died long ago, whatever it was for.
for other in "$directory"/.dagster-slurm.*.part; do
    [ ! -e "$other" ] || [ "$(idle "$other")" -le 86400 ] || rm -f -- "$other"
done
[ "$how" != fresh ] || rm -f -- "$part"
if [ "$how" != fresh ] && ! [ -e "$part" ]; then
    for other in "$directory/$name".*.part; do
        # Of several that try, one wins the rename.
        [ -e "$other" ] && [ "$(idle "$other")" -gt "$lease" ] && mv -T -- "$other" "$part" 2>/dev/null && break
    done
fi
# Twice: the removal of a neighbour takes an empty parent with it.
touch -- "$part" 2>/dev/null || { [ "$kind" != tree ] || mkdir -p -- "$directory"; } && touch -- "$part" || exit 74
cksum <"$part"
