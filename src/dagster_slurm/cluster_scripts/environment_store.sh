# shellcheck shell=sh
# environment_store.sh CACHE INCOMING: the files of the directory INCOMING, each named by its digest, become parts. Another
# process may be at the same ones.
cd -- "$2" 2>/dev/null || exit 0
for part in *; do
    [ -e "$part" ] || continue
    mv -f -T -- "$part" "$1/parts/$part" || [ -f "$1/parts/$part" ] || exit 74
done
cd / && rm -rf -- "$2"
