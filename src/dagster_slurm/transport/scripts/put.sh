# shellcheck shell=sh
# put.sh DESTINATION MODE SHA256: stdin to DESTINATION, whole or not at all.
destination=$1 mode=$2 expected=$3
part=$destination.part.$$
trap 'rm -f -- "$part"' EXIT
cat >"$part" || exit 74
actual=$(sha256sum <"$part") || exit 74
[ "${actual%% *}" = "$expected" ] || exit 65
# mv -T refuses to move into a directory of that name.
chmod -- "$mode" "$part" && mv -fT -- "$part" "$destination"
