# shellcheck shell=bash
# shellcheck disable=SC2154  # assigned in front of this file
# A payload of MPI, behind ranks.sh. In front of this file stand, generated and quoted:
#   mpi=...  mpi_ranks=...  mpi_tasks=...  mpi_timeout=...   python=(...)
# Its arguments are the payload's command.
# The number of ranks: what the launcher says, or what the job has been given.
count_ranks() {
    local nodes=${SLURM_JOB_NUM_NODES:-1}
    mpi_tasks=${mpi_tasks:-$SLURM_NTASKS_PER_NODE}
    ranks=${mpi_ranks:-${mpi_tasks:+$((mpi_tasks * nodes))}}
    ranks=${ranks:-${SLURM_NTASKS:-$nodes}}
    mpi_tasks=${mpi_tasks:-$(((ranks + nodes - 1) / nodes))}
}

# Sets `library`, and in `ways` those worth trying, the likeliest first.
find_library() {
    if ! library=$("${python[@]}" "$DAGSTER_SLURM_RANKS/mpi_world.py" library 2>"$DAGSTER_SLURM_RANKS/library"); then
        cat -- "$DAGSTER_SLURM_RANKS/library" >&2
        refuse "MPI cannot be had in the payload's environment; the payload was not started"
    fi
    case $library in
    *Open\ MPI*) ways=(pmix mpirun pmi2) ;;
    *MPICH* | *Intel*) ways=(pmi2 pmix mpirun) ;;
    *) ways=(pmix pmi2 mpirun) ;;
    esac
    [ "$mpi" = auto ] || ways=("$mpi")
    [ -n "$SLURM_JOB_ID" ] || ways=(mpirun)
}

# Sets `mpirun`: the environment's own, or what the site has on the PATH.
find_mpirun() {
    mpirun=${python[0]%/*}/mpirun
    [ -x "$mpirun" ] || mpirun=$(command -v mpirun)
    # It is srun's, to which mpirun says how many daemons there are to be.
    unset -v SLURM_NTASKS_PER_NODE
    [ -z "$SLURM_JOB_ID" ] || return 0
    # On this machine more ranks than CPUs are right, and in a container everybody is root.
    export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_rmaps_base_oversubscribe=1
    [ "$EUID" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
}

# start_with MPI: sets `start`, what stands before a rank's command, and `way`.
start_with() {
    local each=${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}
    if [ "$1" = mpirun ]; then
        way=mpirun
        find_mpirun
        start=("$mpirun" -n "$ranks")
        return
    fi
    way=srun
    # srun does not inherit the CPUs of a task (since 22.05), and hands on what sbatch was told of the environment.
    start=(srun "--ntasks=$ranks" "--ntasks-per-node=$mpi_tasks" ${each:+"$each"} "--mpi=$1" --kill-on-bad-exit=1
        --export=ALL)
}

name_of() { if [ "$1" = mpirun ]; then echo mpirun; else echo "srun --mpi=$1"; fi; }

# last_words FILE: what came before srun and slurmstepd said that it is over.
last_words() {
    grep -v -E '^ *$|^---|^srun: (Job step|launch/|Force|error: .* task)|[*]{3} STEP' -- "$1" |
        tail -n 1 | cut -c 1-200
}

# try MPI: whether one world of all ranks comes up; sets `found`. Slurm's list of plugins proves nothing, nor does exit
# code 0: the wrong one gives as many worlds of one rank.
try() {
    local out=$DAGSTER_SLURM_RANKS/world.$1 worlds
    start_with "$1"
    if [ "$way" = mpirun ] && [ -z "$mpirun" ]; then
        found='there is no mpirun in the environment'
        return 1
    fi
    timeout --foreground -k 5 "$mpi_timeout" "${start[@]}" "${python[@]}" "$DAGSTER_SLURM_RANKS/mpi_world.py" world >"$out" 2>&1 </dev/null
    case $? in 124 | 137) found="no answer in $mpi_timeout s" && return 1 ;; esac
    mapfile -t worlds < <(sed -n 's/.*dagster-slurm-world //p' "$out")
    if [ ${#worlds[@]} = 1 ] && [ "${worlds[0]%% *}" = "$ranks" ]; then
        found=${worlds[0]#* }
        return 0
    fi
    if [ ${#worlds[@]} = 0 ]; then
        found="no world: $(last_words "$out")"
    else
        found="$(printf '%s\n' "${worlds[@]%% *}" | sort -n | uniq -c | awk '
            { printf "%s%d world%s of %d", (NR > 1 ? " and " : ""), $1, ($1 > 1 ? "s" : ""), $2 }')"
    fi
    return 1
}

# Sets `start` and `way` to what works.
choose() {
    local each tried=()
    for each in "${ways[@]}"; do
        if try "$each"; then
            say "$library, $(name_of "$each"): $ranks ranks, $found"
            return
        fi
        tried+=("$(name_of "$each"): $found")
    done
    say "$library has no world of the $ranks ranks that are asked for; the payload was not started"
    for each in "${tried[@]}"; do say "  $each"; done
    [ "$mpi" = auto ] || say '  mpi="auto" tries what works'
    exit 74
}

catch_signals
count_ranks
find_library
choose
run_ranks "${start[@]}" bash "$DAGSTER_SLURM_RANKS/rank.sh" "$way" "$@"
exit_by_ends $?
