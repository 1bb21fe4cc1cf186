# shellcheck shell=sh
# content_missing.sh DIRECTORY: of the lines on stdin, `content SHA256 SIZE` or `path PATH`, prints those that are not there.
# SIZE is `-` if any will do. What is there was used just now: whoever clears up by age leaves it.
umask 077
mkdir -p -- "$1/.incoming" && cd -- "$1" || exit 74
asked=.asked.$$
trap 'rm -f -- "$asked" "$asked.there"' EXIT
cat >"$asked" || exit 74
# One of another size was cut off by whoever cleared up, or by a crash of the file system. One process for all.
sed -n 's/^content \([0-9a-f]*\) .*/\1/p' "$asked" |
    xargs -r stat --printf 'content %n %s\ncontent %n -\n' -- 2>/dev/null >"$asked.there"
grep '^content ' "$asked" | grep -vxF -f "$asked.there"
sed -n 's/^path //p' "$asked" | while IFS= read -r path; do
    [ -e "$path" ] || printf 'path %s\n' "$path"
done
sed -n 's/^content \([0-9a-f]*\) -$/\1/p' "$asked.there" | {
    xargs -r sh -c 'touch -c -- "$@" && chmod 0400 -- "$@"' sh
}
