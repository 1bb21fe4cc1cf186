# shellcheck shell=sh
# upload_publish.sh PART DESTINATION MODE SHA256: PART becomes DESTINATION if it has that SHA256. Whatever goes wrong, PART is
# gone afterwards.
part=$1 destination=$2 mode=$3 expected=$4
trap 'rm -f -- "$part"' EXIT
[ -e "$part" ] || exit 66
actual=$(sha256sum <"$part")
if [ "${actual%% *}" != "$expected" ]; then
    [ -e "$part" ] || exit 66
    exit 65
fi
# Partial files are made with 600. mv -T refuses to move into a directory of that name.
if { [ "$mode" = 600 ] || chmod -- "$mode" "$part"; } && mv -fT -- "$part" "$destination"; then
    trap - EXIT
    exit 0
fi
# Another process may have published the same meanwhile.
[ -e "$part" ] || exit 66
exit 74
