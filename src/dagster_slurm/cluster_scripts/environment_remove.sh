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
# By the clock of the files, which is not this machine's.
: >".now.$$" && now=$(stat -c %Y -- ".now.$$") && rm -f -- ".now.$$" || exit 74
before() {
    echo "@$((now - $1 * 86400))"
}
[ ! -d parts ] || find parts -maxdepth 1 -type f ! -newermt "$(before "$2")" -delete
# Packages that were extracted for environments of which none is left: those that are have their files, too. While one is
# installed, it may be about to take them.
if [ -d unpacked ] && [ -z "$(ls .leases 2>/dev/null)" ]; then
    find unpacked -mindepth 1 -maxdepth 1 -type d ! -newermt "$(before 1)" | while read -r package; do
        [ -n "$(find "$package" -type f -links +1 -print -quit)" ] || rm -rf -- "$package" "$package.lock"
    done
fi
# Releases before had the first.
for incoming in .incoming parts/.incoming; do
    [ ! -d "$incoming" ] || find "$incoming" -mindepth 1 -maxdepth 1 ! -newermt "$(before 2)" -exec rm -rf {} +
done
