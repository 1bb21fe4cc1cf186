# shellcheck shell=sh
# upload_publish.sh PART DESTINATION MODE BYTES CHECK_FROM CKSUM OLD LEASE_SECONDS: PART becomes DESTINATION if it has BYTES
# and what lies behind CHECK_FROM has that CKSUM. Removes the partial files of dead uploads to the same
# destination, whose names begin with OLD. Whatever goes wrong, PART is gone afterwards.
part=$1 destination=$2 mode=$3 bytes=$4 check_from=$5 expected=$6 old=$7 lease=$8
trap 'rm -f -- "$part"' EXIT
[ -e "$part" ] || exit 66
actual=$({ dd bs=1 skip="$check_from" count=0 2>/dev/null && cksum; } <"$part") || exit 74
[ "$actual" = "$expected $((bytes - check_from))" ] || exit 65
# Partial files are made with 600. mv -T refuses to move into a directory of that name.
{ [ "$mode" = 600 ] || chmod -- "$mode" "$part"; } && mv -fT -- "$part" "$destination" || exit 74
trap - EXIT
for other in "$old".*.part; do
    [ -e "$other" ] || continue
    written=$(stat -c %Y -- "$other" 2>/dev/null) || continue
    [ $(($(date +%s) - written)) -le "$lease" ] || rm -f -- "$other"
done
