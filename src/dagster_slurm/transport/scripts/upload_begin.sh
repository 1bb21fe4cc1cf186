# shellcheck shell=sh
# upload_begin.sh DESTINATION PART BYTES SHA256 HOW: makes the partial file PART, unless it is there, and prints its size;
# with HOW `fresh`, what has arrived is thrown away, and with `look` nothing is made. Prints `there` if all of it has
# arrived already: a file of so many BYTES and that SHA256, or, with an empty SHA256, a directory.
destination=$1 part=$2 directory=${2%/*} bytes=$3 sha256=$4 how=$5
is_there() {
    if [ -z "$sha256" ]; then
        [ -d "$destination" ]
        return
    fi
    [ "$(stat -c %s -- "$destination" 2>/dev/null)" = "$bytes" ] && [ -f "$destination" ] &&
        actual=$(sha256sum <"$destination") && [ "${actual%% *}" = "$sha256" ]
}
if is_there; then
    echo there
    exit 0
fi
[ "$how" != look ] || exit 0
[ -n "$sha256" ] || mkdir -p -- "$directory" || exit 74
[ "$how" != fresh ] || rm -f -- "$part"
# Twice: the removal of a neighbour takes an empty parent with it.
touch -- "$part" 2>/dev/null || { { [ -n "$sha256" ] || mkdir -p -- "$directory"; } && touch -- "$part"; } || exit 74
# Published between the first look and the `touch`: those who still send would go on in a file that has no beginning.
if is_there; then
    rm -f -- "$part"
    echo there
    exit 0
fi
# What died long ago, whatever it was for; by the clock of the files, which is not this machine's.
now=$(stat -c %Y -- "$part" 2>/dev/null) || now=0
for other in "$directory"/.dagster-slurm.*.part; do
    [ "$(stat -c %Y -- "$other" 2>/dev/null || echo "$now")" -ge $((now - 86400)) ] || rm -f -- "$other"
done
stat -c %s -- "$part" 2>/dev/null || echo 0
