# shellcheck shell=sh
# environment_remove.sh CACHE PART_DAYS: removes the entries on stdin, lines of a name and when it was used last, unless it
# was used since; and parts that nothing was installed from for PART_DAYS days. Prints `removed NAME`, or `kept NAME`.
cd -- "$1" || exit 74
while read -r name used; do
    marker=$name/.complete
    [ -e "$marker" ] || marker=$name
    if [ "$(stat -c %Y "$marker" 2>/dev/null)" != "$used" ]; then
        echo "kept $name"
        continue
    fi
    # First the link, then the name: nobody finds half of it.
    [ "$(readlink "${name%.*}")" != "$name" ] || rm -f -- "${name%.*}"
    gone=.removed.$name.$$
    if mv -T -- "$name" "$gone" && { rm -rf -- "$gone" 2>/dev/null || { chmod -R u+rwX -- "$gone" && rm -rf -- "$gone"; }; }; then
        echo "removed $name"
    else
        echo "kept $name"
    fi
done
[ ! -d parts ] || find parts -type f -mtime "+$2" -delete
[ ! -d .incoming ] || find .incoming -mindepth 1 -maxdepth 1 -mtime +1 -exec rm -rf {} +
