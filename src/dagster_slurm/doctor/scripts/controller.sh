# shellcheck shell=sh
# controller.sh: does slurmctld answer? With the status and the stderr of squeue, which runs ask.
scontrol ping 2>/dev/null | sed 's/^/ping /'
jobs=$(squeue --noheader --me --format=%A) || exit
printf 'jobs %s\n' "$(printf '%s' "$jobs" | grep -cx '[0-9]*')"
