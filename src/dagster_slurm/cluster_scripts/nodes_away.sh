# shellcheck shell=sh
# nodes_away.sh [PARTITIONS]: the states of nodes that take no jobs now, such as drained or maint, one a line.
# Also `starting` where the controller was started just now: until the nodes have registered with it, they are
# shown as they were before.
# "~" and such after a state tell of power (sinfo(1), NODE STATE CODES): Slurm starts those nodes for a job.
sinfo --noheader --format=%T ${1:+--partition="$1"} 2>/dev/null |
    grep -xE '[a-z_]+[^a-z_[:space:]]*' |
    grep -vxE '(idle|mixed|allocated|completing|planned)[~#%!^@+-]*' | sort -u
# By the controller's clock both.
config=$(scontrol show config 2>/dev/null)
now=$(printf '%s\n' "$config" | sed -n 's/^Configuration data as of *//p')
booted=$(printf '%s\n' "$config" | sed -n 's/^BOOT_TIME *= *//p')
if [ -n "$now" ] && [ -n "$booted" ] && [ $(($(date -d "$now" +%s) - $(date -d "$booted" +%s))) -lt 30 ]; then echo starting; fi
