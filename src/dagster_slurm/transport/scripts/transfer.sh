# shellcheck shell=sh
# Verbs: files that come to a login node.

# read_from PATH OFFSET MAX_BYTES
read_from() {
    [ -e "$1" ] || exit 0
    tail -c "+$(($2 + 1))" -- "$1" | head -c "$3"
}

check_sums() {
    [ -z "$1" ] || printf '%s\n' "$1" | sha256sum --check --quiet --strict >&2
}

# Every other file at the same time: of thousands, the check takes longer than all else.
check_all_sums() {
    odd=$(sed 'n;d' -- "$checksums") && even=$(sed '1d;n;d' -- "$checksums") || return
    check_sums "$odd" &
    check_sums "$even"
    status=$?
    wait "$!" && return "$status"
}

# put_tree DESTINATION CHECKSUMS: a tar stream on stdin becomes the directory DESTINATION, whole or not at all. CHECKSUMS is
# the name, within the tree, of a file in sha256sum's format that lists every other file.
put_tree() {
    destination=$1 checksums=$2
    # Already there: an earlier try arrived and its answer was lost.
    [ -d "$destination" ] && exit 0
    part=$destination.part.$$
    trap 'rm -rf -- "$part"' EXIT
    # Twice: the removal of a neighbour takes an empty parent with it.
    mkdir -p -- "${destination%/*}" && mkdir -- "$part" 2>/dev/null ||
        { mkdir -p -- "${destination%/*}" && mkdir -- "$part"; } || exit 74
    # -m: with the time of today, or a site that purges old files takes them at once. -p: with the modes as sent;
    # without it, tar applies the umask for everybody but root.
    tar -xmpf - -C "$part" || exit 74
    (cd "$part" && check_all_sums && rm -f -- "$checksums") || exit 65
    # mv -T refuses to move into a directory that appeared meanwhile. It may be gone again, where its files are taken from it.
    for _ in 1 2 3 4 5 6 7 8; do
        if said=$(mv -T -- "$part" "$destination" 2>&1); then
            trap - EXIT
            exit 0
        fi
        [ ! -d "$destination" ] || exit 0
    done
    printf '%s\n' "$said" >&2
    exit 74
}

is_there() {
    if [ -z "$sha256" ]; then
        [ -d "$destination" ]
        return
    fi
    [ "$(stat -c %s -- "$destination" 2>/dev/null)" = "$bytes" ] && [ -f "$destination" ] &&
        actual=$(sha256sum <"$destination") && [ "${actual%% *}" = "$sha256" ]
}

# upload_begin DESTINATION PART BYTES SHA256 HOW: makes the partial file PART, unless it is there, and prints its size;
# with HOW `fresh`, what has arrived is thrown away, and with `look` nothing is made. Prints `there` if all of it has
# arrived already: a file of so many BYTES and that SHA256, or, with an empty SHA256, a directory.
upload_begin() {
    destination=$1 part=$2 directory=${2%/*} bytes=$3 sha256=$4 how=$5
    if is_there; then
        echo there
        exit 0
    fi
    [ "$how" != look ] || exit 0
    [ -n "$sha256" ] || mkdir -p -- "$directory" || exit 74
    [ "$how" != fresh ] || rm -f -- "$part"
    # Twice: the removal of a neighbour takes an empty parent with it.
    touch -- "$part" 2>/dev/null || { { [ -n "$sha256" ] || mkdir -p -- "$directory"; } && touch -- "$part"; } || exit 74
    # Published between the first look and the `touch`: those who still send would go on in a file that has no beginning.
    if is_there; then
        rm -f -- "$part"
        echo there
        exit 0
    fi
    # What died long ago, whatever it was for; by the clock of the files, which is not this machine's.
    now=$(stat -c %Y -- "$part" 2>/dev/null) || now=0
    for other in "$directory"/.dagster-slurm.*.part; do
        [ "$(stat -c %Y -- "$other" 2>/dev/null || echo "$now")" -ge $((now - 86400)) ] || rm -f -- "$other"
    done
    stat -c %s -- "$part" 2>/dev/null || echo 0
}

# upload_piece PART OFFSET BYTES: takes BYTES from the channel into PART at OFFSET. BYTES are taken whatever happens:
# what follows them is the next request.
upload_piece() {
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
}

forget() {
    [ "$(stat -c %i -- "$part" 2>/dev/null)" != "$inode" ] || rm -f -- "$part"
}

# upload_publish PART DESTINATION MODE SHA256 OWN: PART becomes DESTINATION if it has that SHA256. OWN is a name beside it that
# nobody else uses: what is summed is what is published, also where PART is another file by then. Whatever goes wrong, what was
# summed is gone afterwards.
upload_publish() {
    part=$1 destination=$2 mode=$3 expected=$4 own=${1%/*}/$5
    trap 'rm -f -- "$own"' EXIT
    # Not all file systems have hard links.
    if ! said=$(ln -T -- "$part" "$own" 2>&1 || mv -T -- "$part" "$own" 2>&1); then
        [ -e "$part" ] || exit 66
        printf '%s\n' "$said" >&2
        exit 74
    fi
    inode=$(stat -c %i -- "$own") || exit 74
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
}

# upload_unpack PART BYTES ARGUMENT...: as put_tree with these arguments, from PART, of so many BYTES. PART is gone afterwards.
upload_unpack() {
    part=$1 bytes=$2
    shift 2
    [ -e "$part" ] || exit 66
    if [ "$(stat -c %s -- "$part")" = "$bytes" ]; then
        (put_tree "$@") <"$part"
    else
        # Another process may have unpacked it meanwhile.
        [ -e "$part" ] || exit 66
        (exit 65)
    fi
    status=$?
    rm -f -- "$part"
    exit "$status"
}
