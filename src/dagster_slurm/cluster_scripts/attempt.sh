# shellcheck shell=sh
# attempt.sh LAUNCH: the newest attempt in the directory of a launch; nothing if there is none.
# Output: "NUMBER PROTOCOL GENERATION STATE AGE TARGET" and, behind it, launch.json. GENERATION is the newest try to submit,
# -1 without one; STATE is `open`, `closed` or, for a link to what is not there any more, `gone`; AGE is in seconds; TARGET
# is `-` but for a link.
cd -- "$1" 2>/dev/null || exit 0
newest=-1
for name in *; do
    case $name in *[!0-9]*) continue ;; esac
    [ "$name" -le "$newest" ] || newest=$name
done
[ "$newest" -ge 0 ] || exit 0
target=$(readlink -- "$newest") || target=-
if ! read -r protocol 2>/dev/null <"$newest/protocol"; then
    printf '%s 0 -1 gone 0 %s\n' "$newest" "$target"
    exit 0
fi
generation=-1 state=open
for claim in "$newest"/claim/*; do
    number=${claim##*/}
    case $number in *[!0-9]*) continue ;; esac
    if [ -L "$claim" ]; then
        state=closed
    elif [ "$number" -gt "$generation" ]; then
        generation=$number
    fi
done
age=$(($(date +%s) - $(stat -c %Y -- "$newest/launch.json")))
printf '%s %s %s %s %s %s\n' "$newest" "$protocol" "$generation" "$state" "$age" "$target"
cat -- "$newest/launch.json"
