# shellcheck shell=sh
# cancel_step.sh ATTEMPT NUMBER: have the dispatcher of a session end the step that it was asked for with that number. A session that
# has ended, or whose directory is gone, has ended its steps.
cd -- "$1" 2>/dev/null || exit 0
read -r allocation _ <session || exit 0
allocation=${1%/runs/*}/runs/$allocation
[ -e "$allocation/work/mail.sh" ] || exit 0
sh "$allocation/work/mail.sh" "$allocation" say cancel "$2"
status=$?
[ "$status" != 76 ] || status=0
exit "$status"
