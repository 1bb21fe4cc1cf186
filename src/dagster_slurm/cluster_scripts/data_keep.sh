# shellcheck shell=sh
# data_keep.sh WORK RESULT: the files and directories of WORK that are named on stdin become the directory RESULT, read-only, as a
# whole or not at all. WORK stays as it is, so that this may be done again; what is in RESULT already stays, too.
work=$1 result=$2 part=${2%/*}/.part.${2##*/}.$$
trap 'rm -rf -- "$part"' EXIT
mkdir -p -- "$part" && cd -- "$work" || exit 74
while IFS= read -r name; do
    [ ! -e "$result/$name" ] || continue
    case $name in */*) mkdir -p -- "$part/${name%/*}" || exit 74 ;; esac
    # Without a copy, where the file system has hard links.
    cp -alH -T -- "$name" "$part/$name" 2>/dev/null && continue
    rm -rf -- "${part:?}/$name"
    cp -aH -T -- "$name" "$part/$name" || exit 74
done
find "$part" -type f -exec chmod a-w -- {} + || exit 74
mv -T -- "$part" "$result" 2>/dev/null && exit
# It was published before. mv -T refuses to move into it.
[ -d "$result" ] && { cp -aln -T -- "$part" "$result" 2>/dev/null || cp -an -T -- "$part" "$result"; }
