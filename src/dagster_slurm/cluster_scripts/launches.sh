# shellcheck shell=sh
# launches.sh BASE: what lies in the directories of all launches, but for their work/ and pipes/ and what lies deep in
# checkpoint/, and the links to assets.
# Output: the clock in seconds, NUL; of each entry "TYPE TAB TYPE_BEHIND_LINKS TAB MODIFIED TAB PATH TAB TARGET NUL"; NUL;
# and each line of the small files as "PATH NUL LINE NEWLINE". Nothing without such a directory.
cd -- "$1" 2>/dev/null || exit 0
printf '%s\0' "$(date +%s)"
# Two processes, however many launches there are.
find runs assets -mindepth 1 -maxdepth 6 \( -path 'runs/*/*/checkpoint/*' -prune -o -path 'runs/*/*/*/*' \
    \( -name work -o -name pipes \) -prune -false -o -true \) -printf '%y\t%Y\t%T@\t%p\t%l\0' 2>/dev/null
printf '\0'
find runs -mindepth 4 -maxdepth 6 -path 'runs/*/*/*/*' \( -name work -o -name pipes -o -path 'runs/*/*/checkpoint/*' \) \
    -prune -o -type f -size -256 \
    \( -name protocol -o -name launch.json -o -path '*/log/status' -o -path '*/claim/*/status' -o -path '*/claim/*/stdout' \) \
    -exec grep -aHZ '' -- {} + 2>/dev/null
exit 0
