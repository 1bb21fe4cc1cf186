# shellcheck shell=sh
# content_store.sh DIRECTORY NAME: what has arrived as DIRECTORY/.incoming/NAME, a directory of files named by their SHA-256, becomes
# content. Another process may be at the same. Prints the names of those that are something else, and removes them.
cd -- "$1/.incoming/$2" 2>/dev/null || exit 0
odd=$(find . -type f ! -name '.*' -printf '%f\0' | xargs -0 -r sha256sum -- | awk '$1 != $2 { print $2 }')
for name in $odd; do
    printf '%s\n' "$name"
    rm -f -- "$name" || exit 74
done
# What is gone, the other process has moved: both go on with the rest.
said=$(find . -type f ! -name '.*' -printf '%f\0' | xargs -0 -r sh -c 'chmod 0400 -- "$@"; mv -f -t ../.. -- "$@"' sh 2>&1)
if [ -n "$(find . -type f ! -name '.*' | head -n 1)" ]; then
    printf '%s\n' "$said" >&2
    exit 74
fi
# In place of an empty directory another process may have put its own (rename(2)), which that one stores; whoever removes
# all then removes what was not looked at, or fails with "Directory not empty".
cd / || exit 74
rmdir -- "$1/.incoming/$2" 2>/dev/null || :
