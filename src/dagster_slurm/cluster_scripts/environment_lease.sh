# shellcheck shell=sh
# environment_lease.sh CACHE KEY OWNER HOW: with HOW `touch` keeps OWNER's lease from becoming stale, with `leave` gives it up.
lease=$1/.leases/$2
[ "$(readlink -- "$lease")" = "$3" ] || exit 0
case $4 in
touch) touch -h -c -- "$lease" ;;
leave) rm -f -- "$lease" ;;
esac
