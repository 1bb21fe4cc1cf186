# shellcheck shell=sh
# outcomes.sh LAUNCH: how the jobs of its attempts ended, one "ATTEMPT OUTCOME" a line.
cd -- "$1" 2>/dev/null || exit 0
for file in */outcome.json; do
    attempt=${file%%/*}
    case $attempt in *[!0-9]*) continue ;; esac
    [ -f "$file" ] && printf '%s %s\n' "$attempt" "$(head -n 1 -- "$file")"
done
exit 0
