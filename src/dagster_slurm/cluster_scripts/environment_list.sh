# shellcheck shell=sh
# environment_list.sh CACHE: what lies there.
#   now EPOCH                       by the file system's clock
#   entry NAME KIND USED BYTES TEXT KIND is `current`, `superseded`, `deployed` or `partial`; USED is when it was used last; TEXT
#                                   is what was noted when it was installed, in JSON
#   parts COUNT BYTES
cd -- "$1" 2>/dev/null || exit 0
: >".now.$$" || exit 74
echo "now $(stat -c %Y ".now.$$")"
rm -f ".now.$$"
for name in *.*; do
    if [ ! -d "$name" ] || [ -L "$name" ]; then continue; fi
    if [ ! -e "$name/.complete" ]; then
        echo "entry $name partial $(stat -c %Y "$name") 0 {}"
        continue
    fi
    kind=superseded
    [ "$(readlink "${name%.*}")" != "$name" ] || kind=current
    [ ! -e "$name/.deployed" ] || kind=deployed
    sed -n "s/^size_bytes //p; s/^description //p" "$name/.complete" | {
        read -r bytes && read -r text
        echo "entry $name $kind $(stat -c %Y "$name/.complete") $bytes $text"
    }
done
[ ! -d parts ] || echo "parts $(find parts -type f -printf '%s\n' | awk '{ n++; sum += $1 } END { print n + 0, sum + 0 }')"
