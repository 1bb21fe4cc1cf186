# shellcheck shell=sh
# nodes_away.sh [PARTITIONS]: the states of nodes that take no jobs now, such as drained or maint, one a line.
# "~" and such after a state tell of power (sinfo(1), NODE STATE CODES): Slurm starts those nodes for a job.
sinfo --noheader --format=%T ${1:+--partition="$1"} 2>/dev/null |
    grep -vxE '(idle|mixed|allocated|completing|planned)[~#%!^@+-]*' | sort -u
