# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154,SC2317  # read behind this file; assigned in front of it; a hook's functions
# One component of a heterogeneous job, in front of batch.sh: a task of a step on the component's first node, which
# hetjob.sh has started from the leader's. In front of this file stand, generated:
#   component=0   components=3
# What Slurm says of the job in a step is the leader's, and of the step; behind this it is what a batch script of a job
# with these nodes has. SLURM_JOB_ID stays the leader's, as everywhere in a heterogeneous job.
take_sizes() {
    local name group=_HET_GROUP_$component
    export DAGSTER_SLURM_HET_GROUP=$component
    for name in "${!SLURM_@}"; do
        case $name in
        *_HET_GROUP_* | *_PACK_GROUP_*) ;;
        SLURM_NTASKS* | SLURM_NPROCS | SLURM_NNODES | SLURM_NODELIST | SLURM_TASKS_PER_NODE | SLURM_CPUS_PER_* | \
            SLURM_MEM_PER_* | SLURM_CPU_BIND* | SLURM_MPI_TYPE | SLURM_OVERLAP | SLURM_DISTRIBUTION | SLURM_GTIDS)
            unset -v "$name"
            ;;
        esac
    done
    for name in "${!SLURM_@}"; do
        case $name in
        "SLURM_JOB_ID$group") ;;
        *"$group") export "${name%"$group"}=${!name}" ;;
        esac
    done
    export SLURM_NNODES=$SLURM_JOB_NUM_NODES SLURM_NODELIST=$SLURM_JOB_NODELIST
    # What asks for steps, whatever it is, gets them on the component's nodes.
    PATH=$run_directory/elements/$component/bin:$PATH
}
# Of one alone Slurm makes no heterogeneous job.
if [ "$components" = 1 ]; then
    unset -v DAGSTER_SLURM_HET_GROUP
    export DAGSTER_SLURM_HET_NODELIST_0
    DAGSTER_SLURM_HET_NODELIST_0=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd, -)
else
    take_sizes
fi

# The leader's words, SIGNAL or SIGNAL REASON: signals that Slurm sends its batch script alone, and the order to end.
# This shell's traps pass them on. `sweep` ends what reads them.
leader_begin() {
    [ "$components" != 1 ] || return 0
    leader_heed <&0 >/dev/null &
    disown
}

leader_heed() {
    local signal reason
    while read -r signal reason; do
        [ -z "$reason" ] || say "$reason"
        kill "-$signal" "$$"
    done
}
