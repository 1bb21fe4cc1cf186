# shellcheck shell=sh
# upload_piece.sh PART OFFSET BYTES: takes BYTES from the channel into PART at OFFSET. BYTES are taken whatever happens:
# what follows them is the next request.
part=$1 offset=$2 bytes=$3 block=131072
# Where it belongs, not at the end: a dd that outlived its broken connection, and another process that sends the same,
# write the same bytes to the same place.
said=$(dd bs=$block count="$bytes" seek="$offset" iflag=fullblock,count_bytes oflag=seek_bytes \
    conv=notrunc,nocreat status=noxfer of="$part" 2>&1) && exit 0
case $said in
# The connection is gone (a TTY says so with an error): what has arrived stays for the next try.
*'error reading'*) exit 74 ;;
esac
full=$(printf '%s\n' "$said" | sed -n 's/^\([0-9]*\)+.* records in$/\1/p')
partial=$(printf '%s\n' "$said" | sed -n 's/^[0-9]*+\([0-9]*\) records in$/\1/p')
left=$((bytes - (${full:-0} + ${partial:-0}) * block))
[ "$left" -le 0 ] || dd bs=$block count="$left" iflag=fullblock,count_bytes of=/dev/null status=none
printf '%s\n' "$said" >&2
# It is gone, or was: another process has published it, and may have made it read-only.
case $said in *'failed to open'* | *': opening '*) exit 66 ;; esac
[ -e "$part" ] || exit 66
rm -f -- "$part"
exit 74
