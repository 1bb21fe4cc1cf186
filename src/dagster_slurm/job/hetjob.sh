# shellcheck shell=bash
# shellcheck disable=SC2154  # assigned in front of this file
# The batch script of a heterogeneous job, which Slurm runs on the first node of the first component. It starts each
# component's own, component.sh, as a step there, and is there for their signals and their end: Slurm ends nothing when a
# component has failed. In front of this file stand, generated and quoted:
#   run_directory=...  forwarded_signals=...  names=(ASSET ...)  on_failure=wait|cancel  pause.sh
# One `srun` for each, since one for all tells no ends apart. What Slurm writes beside a payload comes through it.
generation=${1:-0}
claim=$run_directory/claim/$generation
components=${#names[@]}
pipes=()
pids=()                         # of the srun of each that runs
statuses=()
worst=0

# What srun would take for a request is the leader's.
forget_sizes() {
    local name
    for name in "${!SLURM_@}"; do
        case $name in
        *_HET_GROUP_* | *_PACK_GROUP_*) ;;
        SLURM_GPUS* | SLURM_MEM_PER_* | SLURM_CPUS_PER_* | SLURM_NTASKS* | SLURM_NPROCS | SLURM_THREADS_PER_CORE | \
            SLURM_TRES_PER_TASK | SLURM_DISTRIBUTION | SLURM_EXCLUSIVE | SLURM_HINT)
            unset -v "$name"
            ;;
        esac
    done
}

# Each knows the nodes of all.
tell_nodes() {
    local number list
    for ((number = 0; number < components; number++)); do
        list=SLURM_JOB_NODELIST_HET_GROUP_$number
        list=$(scontrol show hostnames "${!list}" | paste -sd, -)
        export "DAGSTER_SLURM_HET_NODELIST_$number=$list"
    done
}

# start NUMBER: with all CPUs of its first node. Its pipe is open at both ends: what reads it waits. Between this script and srun is
# no other shell: one that a signal for all of the job's processes ended would never tell of the end.
start() {
    local cpus=SLURM_JOB_CPUS_PER_NODE_HET_GROUP_$1 place=$run_directory/elements/$1 pipe
    cpus=${!cpus%%[!0-9]*}
    exec {pipe}<> <(:)
    pipes[$1]=$pipe
    srun --het-group="$1" --nodes=1 --ntasks=1 --relative=0 --cpus-per-task="${cpus:-1}" --mem=0 --overlap \
        --cpu-bind=none --mpi=none --export=ALL --chdir=/ --job-name=component bash "$place/component.sh" "$generation" \
        <"/dev/fd/$pipe" >>"$place/log/slurm.log" 2>&1 &
    pids[$1]=$!
}

# tell WORDS ...: those that have not ended.
tell() {
    local number
    for number in "${!pipes[@]}"; do
        [ -n "${statuses[number]}" ] || printf '%s\n' "$*" >&"${pipes[number]}"
    done
}

# has_ended NUMBER: whether it has written that itself. srun ends with 0 after the loss of a node.
has_ended() {
    local word of _
    while read -r word of _; do
        [ "$word $of" != "end $SLURM_JOB_ID+$1" ] || return 0
    done <"$run_directory/elements/$1/log/status"
    return 1
}

# note NUMBER STATUS
note() {
    local status=$2 taken_by
    # Another job runs the payloads.
    if [ "$status" = 0 ] && taken_by=$(readlink -- "$claim/gate") && [ "$taken_by" != "$SLURM_JOB_ID" ]; then
        statuses[$1]=0
        return
    fi
    [ "$status" != 0 ] || has_ended "$1" || status=74
    statuses[$1]=$status
    # Those that were told to end were so because of another.
    [ -n "$on_failure" ] && [ "$status" != 0 ] || return 0
    [ "$status" -le "$worst" ] || worst=$status
    [ "$on_failure" = cancel ] || return 0
    on_failure=
    tell "TERM ended, since ${names[$1]//[[:cntrl:]]/ } has failed: on_failure is \"cancel\""
}

# collect: of each whose srun has ended.
collect() {
    local number
    for number in "${!pids[@]}"; do
        ! kill -0 "${pids[number]}" 2>/dev/null || continue
        wait "${pids[number]}"
        note "$number" "$?"
        unset -v 'pids[number]'
    done
}

# With these Slurm ends a job; it sends them to the steps as well.
trap : TERM INT HUP
# shellcheck disable=SC2064  # the name of the signal is meant to be expanded now
for each in $forwarded_signals; do trap "tell $each" "$each"; done
forget_sizes
tell_nodes
open_pipe 3
for ((each = 0; each < components; each++)); do start "$each"; done
while [ ${#pids[@]} -gt 0 ]; do
    pause_on 0.2 3
    collect
done
exit "$worst"
