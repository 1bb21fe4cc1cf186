# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read or assigned in front of this file
# What ranks have besides themselves, as a hook behind nodes.sh: a task on each node, which has a directory for what they
# put into /tmp, and takes away what they leave; and a directory in which they write their ends. In front of this file
# stand, generated and quoted:
#   ranks_here=yes|''   ranks_files=(NAME TEXT ...)   what lies beside the ends
ranks_begin() {
    local number status base=${TMPDIR:-/tmp}
    # A scratch directory is of the first node alone.
    if [ "${SLURM_JOB_NUM_NODES:-1}" != 1 ] && [ -n "$DAGSTER_SLURM_SCRATCH" ]; then
        say "scratch is a directory of one node, and the payload has ranks on $SLURM_JOB_NUM_NODES; leave scratch out"
        return 74
    fi
    nodes_begin ranks "$ranks_here" || return
    # Those that are told to end may still save something; before KillWait, which is 30 s by default, all has to be away.
    nodes_patience=20 nodes_grace=0
    # Of another name for each start: agents of torchrun know each other by it.
    DAGSTER_SLURM_RANKS=$(mktemp -d -- "$nodes_dir/ends.XXXXXX") || return
    for ((number = 0; number < ${#ranks_files[@]}; number += 2)); do
        printf '%s\n' "${ranks_files[number + 1]}" >"$DAGSTER_SLURM_RANKS/${ranks_files[number]}" || return
    done
    # Of one name on all nodes, as mpirun hands it on.
    [ -w "$base" ] || base=/tmp
    nodes_same_tmp=$(mktemp -d -- "$base/ranks${SLURM_JOB_ID:-0}.XXXXXX") || return
    export DAGSTER_SLURM_RANKS TMPDIR=$nodes_same_tmp
    nodes_start || return
    for ((number = 0; number < nodes_count; number++)); do
        nodes_await "node.$number" 60
        status=$?
        if [ "$status" != 0 ]; then
            nodes_explain "$status" 'the ranks have no place'
            return 74
        fi
    done
    nodes_read node.0
    export DAGSTER_SLURM_ADDRESS=${nodes_text#* }
}

ranks_enter() { nodes_enter; }

ranks_end() { nodes_end; }

ranks_leave() { [ -z "$nodes_dir" ] || rm -rf -- "$nodes_dir" ${nodes_same_tmp:+"$nodes_same_tmp"}; }

# ---- on each node --------------------------------------------------------------------------------------------------

ranks_node() {
    trap '' TERM INT HUP
    : >"$nodes_tmp/begun"
    nodes_start_daemon sleep infinity
}

# ranks_is_held FILE: whether a process has it. Who makes such a file opens it, maps it and closes it: looked for in this
# order, it is found whatever it does in between. Another job's world that has just begun loses its memory else, and says
# of it "invalid bandwidth 0.00" (MPICH 5.0.2).
ranks_is_held() {
    [ -n "$(find /proc/[0-9]*/fd -lname "$1" -print -quit 2>/dev/null)" ] || grep -qsF -- "$1" /proc/[0-9]*/maps
}

# The memory that ranks shared stays where they were killed. No name tells whose it is: it has come since this task has
# begun, and no process has it any more.
ranks_clean() {
    local file
    for file in /dev/shm/mpich_shm_* /dev/shm/sm_segment.* /dev/shm/vader_segment.* /dev/shm/Intel_MPI_*; do
        if [ -O "$file" ] && [ "$file" -nt "$nodes_tmp/begun" ] && ! ranks_is_held "$file"; then rm -f -- "$file"; fi
    done
}
