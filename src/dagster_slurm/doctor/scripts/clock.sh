# shellcheck shell=sh
# clock.sh: the time here, in seconds since the epoch.
printf 'time %s\n' "$(date +%s.%N)"
