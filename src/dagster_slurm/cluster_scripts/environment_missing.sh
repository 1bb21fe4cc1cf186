# shellcheck shell=sh
# environment_missing.sh CACHE: of the digests on stdin, one a line, prints those of which there is no part.
mkdir -p -- "$1/parts" && cd -- "$1/parts" || exit 74
while read -r digest; do
    # A part that is used again is as good as new: prune leaves it.
    if [ -f "$digest" ]; then echo "$digest" >&3; else echo "$digest"; fi
done 3>"$1/.there.$$"
xargs -r touch -c -- <"$1/.there.$$"
rm -f -- "$1/.there.$$"
