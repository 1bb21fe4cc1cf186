# shellcheck shell=bash
# The payload of a cluster that a session keeps, behind pause.sh: it stands until the dispatcher has written into `end`. See
# kept.sh.
exec {never}<> <(:)
printf 'yes\n' >../ready
until read -r _ <../end; do pause_on 1 "$never"; done
