# shellcheck shell=sh
# upload_publish.sh PART DESTINATION MODE SHA256 OWN: PART becomes DESTINATION if it has that SHA256. OWN is a name beside it that
# nobody else uses: what is summed is what is published, also where PART is another file by then. Whatever goes wrong, what was
# summed is gone afterwards.
part=$1 destination=$2 mode=$3 expected=$4 own=${1%/*}/$5
trap 'rm -f -- "$own"' EXIT
# Not all file systems have hard links.
if ! said=$(ln -T -- "$part" "$own" 2>&1 || mv -T -- "$part" "$own" 2>&1); then
    [ -e "$part" ] || exit 66
    printf '%s\n' "$said" >&2
    exit 74
fi
inode=$(stat -c %i -- "$own") || exit 74
forget() {
    [ "$(stat -c %i -- "$part" 2>/dev/null)" != "$inode" ] || rm -f -- "$part"
}
actual=$(sha256sum <"$own")
if [ "${actual%% *}" != "$expected" ]; then
    forget
    exit 65
fi
# mv -T refuses to move into a directory of that name, and some mv to replace a file by itself.
# dash, bash, ksh and busybox have -ef.
# shellcheck disable=SC3013
if ! mv -fT -- "$own" "$destination" && ! [ "$own" -ef "$destination" ]; then
    forget
    exit 74
fi
forget
# Last: others may be writing the same to it. Partial files are made with 600.
[ "$mode" = 600 ] || chmod -- "$mode" "$destination" || exit 74
