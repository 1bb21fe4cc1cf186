# shellcheck shell=sh
# environment_begin.sh CACHE KEY OWNER STALE_SECONDS HOW DEAD: prints `ready ENTRY` if there is one for KEY, `mine` if OWNER
# may build it, or `busy HOLDER`. With HOW `build` one that is there does not count, with `look` and `peek` it prints `none`
# otherwise; `peek` changes nothing at all. A lease that was not touched for STALE_SECONDS is void, and so is that of DEAD, a
# holder that the caller knows to be gone.
cache=$1 key=$2 owner=$3 stale=$4 how=$5 dead=$6
leases=$cache/.leases
if [ "$how" != build ] && [ -e "$cache/$key/.complete" ] && [ -e "$cache/$key/activate.sh" ]; then
    # A link to nothing: the interpreter that it was made with is gone.
    if [ -x "$cache/$key/env/bin/python" ] || [ ! -L "$cache/$key/env/bin/python" ]; then
        # When it was used last.
        [ "$how" = peek ] || touch -c -- "$cache/$key/.complete"
        echo "ready $(readlink -- "$cache/$key")"
        exit
    fi
fi
case $how in look | peek)
    echo none
    exit
    ;;
esac
umask 077
mkdir -p -- "$leases" "$cache/parts" || exit 74
if ln -s -T -- "$owner" "$leases/$key" 2>/dev/null; then
    echo mine
    exit
fi
holder=$(readlink -- "$leases/$key") || holder=
# By the file system's own clock.
: >"$leases/.now.$$" || exit 74
age=$(($(stat -c %Y -- "$leases/.now.$$") - $(stat -c %Y -- "$leases/$key" 2>/dev/null || stat -c %Y -- "$leases/.now.$$")))
rm -f -- "$leases/.now.$$"
if [ "$holder" = "$owner" ]; then
    echo mine
elif [ "$holder" = "$dead" ] || [ "$age" -gt "$stale" ]; then
    # One after the other, or two would take it over, each from the other.
    (
        flock -w 5 9 || exit 1
        [ "$(readlink -- "$leases/$key")" = "$holder" ] || exit 1
        rm -f -- "$leases/$key" && ln -s -T -- "$owner" "$leases/$key"
    ) 9>"$leases/.takeover" && echo mine || echo "busy $holder"
else
    echo "busy $holder"
fi
