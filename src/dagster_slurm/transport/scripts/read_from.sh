# shellcheck shell=sh
# read_from.sh PATH OFFSET MAX_BYTES
[ -e "$1" ] || exit 0
tail -c "+$(($2 + 1))" -- "$1" | head -c "$3"
