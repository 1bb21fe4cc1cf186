# shellcheck shell=sh
# upload_unpack.sh PART BYTES UNPACK ARGUMENT...: runs the script UNPACK with its arguments and with PART, of so many BYTES,
# as its stdin. PART is gone afterwards.
part=$1 bytes=$2 unpack=$3
shift 3
[ -e "$part" ] || exit 66
if [ "$(stat -c %s -- "$part")" = "$bytes" ]; then
    (eval "$unpack") <"$part"
else
    # Another process may have unpacked it meanwhile.
    [ -e "$part" ] || exit 66
    (exit 65)
fi
status=$?
rm -f -- "$part"
exit "$status"
