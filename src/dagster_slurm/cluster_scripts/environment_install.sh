# shellcheck shell=sh
# environment_install.sh CACHE KEY TOKEN PYTHON SETUP INSTALL CHECK DESCRIPTION: installs the entry KEY.TOKEN from the parts on
# stdin, lines of a digest and a name, by the lines of bash INSTALL; then it becomes the entry for KEY, by the rename of a
# link. Ends with 65 if a
# part is damaged, which is then removed, with 70 if INSTALL does, with 75 if it fails otherwise, and with 76 if what it has made does not work.
cache=$1 key=$2 entry=$1/$2.$3 name=$2.$3 python=$4 setup=$5 install=$6 check=$7 description=$8
umask 077
trap 'rm -rf -- "$entry"' EXIT
# Login nodes have small ones, of memory.
mkdir -p -- "$entry/.parts" "$entry/.tmp" && cd -- "$entry" || exit 74
while read -r digest part; do
    case $part in */*) [ -d ".parts/${part%/*}" ] || mkdir -p -- ".parts/${part%/*}" ;; esac
    # Beside each other in one directory, under their own names, without a copy.
    ln -- "$cache/parts/$digest" ".parts/$part" 2>/dev/null || ln -s -- "$cache/parts/$digest" ".parts/$part" || exit 74
    printf '%s  %s\n' "$digest" "$part"
done >.digests
# They were checked when they came; since then others may have been at them, or the disk.
damaged=$(cd .parts && sha256sum --check --quiet ../.digests 2>/dev/null | sed -n 's/: FAILED.*//p')
if [ -n "$damaged" ]; then
    printf '%s\n' "$damaged" | while read -r part; do
        rm -f -- "$cache/parts/$(awk -v part="$part" 'substr($0, 67) == part { print $1 }' .digests)"
    done
    echo "Damaged on the cluster: $damaged" >&2
    exit 65
fi
# shellcheck disable=SC2016 # bash expands them
parts=$entry/.parts python=$python TMPDIR=$entry/.tmp bash -c 'set -e; eval "$1"; eval "$2"' bash \
    "$setup" "$install" >&2 </dev/null
status=$?
[ "$status" != 70 ] || exit 70
[ "$status" = 0 ] || exit 75
rm -rf -- .parts .tmp .digests
[ -f activate.sh ] || {
    echo 'It has no activate.sh' >&2
    exit 76
}
if [ "$check" = yes ] && [ -e env/bin/python ]; then
    # shellcheck disable=SC2016 # bash expands them
    bash -c 'eval "$1"; . ./activate.sh; exec env/bin/python -B -c "import sys"' bash "$setup" >&2 </dev/null || exit 76
fi
find . -type f -printf '%s %P\n' -o -type l -printf 'link %P\n' | LC_ALL=C sort >.listing || exit 74
{
    printf 'name %s\nmade %s\nfiles %s\n' "$name" "$(date +%s)" "$(wc -l <.listing)"
    printf 'size_bytes %s\nlisting %s\n' "$(awk '$1 != "link" { sum += $1 } END { print sum + 0 }' .listing)" "$(cksum <.listing)"
    printf 'description %s\n' "$description"
} >.complete.part || exit 74
# After a crash of the file system a link must not point to what was never written.
sync -f . 2>/dev/null
mv -- .complete.part .complete && ln -s -T -- "$name" "$cache/.$name" && mv -f -T -- "$cache/.$name" "$cache/$key" || exit 74
trap - EXIT
