# shellcheck shell=bash
# shellcheck disable=SC2154,SC2317  # assigned in front of this file; reached through the trap
# The batch script of every job, behind its #SBATCH lines. In front of this file stand, generated and quoted:
#   run_directory=...  forwarded_signals='USR1 ...'
#   launch() { ...; exec the payload; }, and make_scratch and leave_scratch if it has a scratch directory
# Its argument says which try to submit it is.
claim=$run_directory/claim/${1:-0}
# Each task of a job array has a place of its own. The gate is the array's: there is one task of each number in it.
# shellcheck disable=SC2034  # used by launch
place=$run_directory${SLURM_ARRAY_TASK_ID:+/elements/$SLURM_ARRAY_TASK_ID}
owns=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
job=$owns${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
log=$place/log
restart=${SLURM_RESTART_COUNT:-0}
say() { printf 'dagster-slurm: %s\n' "$*" >&2; }

# The first act: whoever takes the gate runs the payload, every other job of this piece of work ends here.
# A symlink is made in one step, on NFS too, and its target names the owner at once.
if ! ln -sT -- "$owns" "$claim/gate" 2>/dev/null; then
    if ! owner=$(readlink -- "$claim/gate"); then
        say "cannot take $claim/gate, so it is not known whether another job runs this payload; nothing was run"
        exit 75
    fi
    if [ "$owner" != "$owns" ]; then
        say "job $owner runs this payload; nothing to do"
        exit 0
    fi
fi

[ -d "${run_directory%/*}/checkpoint" ] || mkdir -p -- "${run_directory%/*}/checkpoint"

# Each incarnation of a requeued job has its own files; readers tell them apart by the restart count.
exec >>"$log/stdout.$restart" 2>>"$log/stderr.$restart"
: >>"$log/messages.$restart" && ln -sfT -- "messages.$restart" "$log/messages"

# Sets `sizes`: of stdout, stderr and messages, 0 for what the payload has removed. One process, where all are there.
measure() {
    local name files=()
    for name in stdout stderr messages; do files+=("$log/$name.$restart"); done
    # shellcheck disable=SC2207  # numbers
    sizes=($(stat -c %s -- "${files[@]}" 2>/dev/null))
    if [ ${#sizes[@]} = 3 ]; then return; fi
    sizes=()
    for name in "${files[@]}"; do sizes+=("$(stat -c %s -- "$name" 2>/dev/null || printf 0)"); done
}

# Sets `now`, in seconds. The variable is of bash 5, and has the decimal sign of the locale.
look_at_clock() {
    now=${EPOCHREALTIME/[!0-9]/.}
    now=${now:-$(date +%s.%N)}
}

# Sets `group`: what lists the processes of the control group in which Slurm has put this script, if it has. With control
# groups of version 2, those of 26.05 are not called by the job's id but by its SLUID.
find_group() {
    local controllers path
    while IFS=: read -r _ controllers path; do
        case $path in */job_"$SLURM_JOB_ID"/* | */"${SLURM_JOB_SLUID:-none}"/*) ;; *) continue ;; esac
        group=/sys/fs/cgroup/$controllers$path/cgroup.procs
        if [ -r "$group" ]; then return; fi
    done 2>/dev/null </proc/self/cgroup
    group=
}

# Sets `left`: the processes of this job on this node, whatever session or group they went to, but for this script and
# what it looks after. Where there is no control group, their environment tells; to read everybody's takes its time.
find_leftovers() {
    local file pid pids=()
    if [ -n "$group" ]; then
        mapfile -t pids <"$group"
    else
        # shellcheck disable=SC2013  # these names hold no white space
        for file in $(grep -lszxF -- "SLURM_JOB_ID=$SLURM_JOB_ID" /proc/[0-9]*/environ); do
            pid=${file#/proc/}
            pids+=("${pid%/environ}")
        done
    fi
    left=()
    for pid in "${pids[@]}"; do
        # slurmstepd is of the same group, and not ours to signal. 0: of another namespace.
        case $pid in 0 | "$$" | "$PPID" | "$fresh") continue ;; esac
        if kill -0 "$pid" 2>/dev/null; then left+=("$pid"); fi
    done
}

# What the payload left behind would hold the job in COMPLETING for KillWait, 30 s by default (slurm.conf(5)).
sweep() {
    local tries left group
    find_group
    for tries in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        find_leftovers
        [ ${#left[@]} -gt 0 ] || return 0
        if [ "$tries" = 1 ]; then kill -TERM "${left[@]}" 2>/dev/null; fi
        sleep 0.1
    done
    kill -KILL "${left[@]}" 2>/dev/null
}

# Sites and users remove what was not touched for some days (`find -mtime +3`). A `sleep` would be one process more to end.
stay_fresh() {
    while :; do
        read -rt 3600 -u "$never"
        touch -c -- "${run_directory%/*/*}"
    done
}

finish() {
    local code=$?
    # shellcheck disable=SC2086  # several words
    trap '' TERM INT HUP $forwarded_signals
    if [ -n "$fresh" ]; then kill -KILL "$fresh"; fi
    sweep
    # What is copied back is to be final, and a signal that hits every process is not to end it.
    if declare -F leave_scratch >/dev/null; then leave_scratch || [ "$code" != 0 ] || code=74; fi
    touch -c -- "${run_directory%/*/*}"
    measure
    look_at_clock
    printf 'end %s %s %s %s %s %s %s\n' "$job" "$restart" "$code" "$now" "${sizes[@]}" >>"$log/status"
    exit "$code"
}
fresh=
trap finish EXIT

# Slurm cancels, requeues and times out with SIGTERM. Under proctrack/cgroup only the batch script itself gets it,
# as with --signal=B:..., and SIGKILL follows after KillWait: so it is passed on, and this script lives on for its
# last line. Under other plugins every process gets it, and the payload twice.
for signal in TERM INT HUP $forwarded_signals; do
    # shellcheck disable=SC2064  # the name of the signal is meant to be expanded now
    trap "kill -$signal -- -\$payload 2>/dev/null" "$signal"
done

look_at_clock
printf 'start %s %s %s %s\n' "$job" "$restart" "$now" "${SLURMD_NODENAME:-$(hostname)}" >>"$log/status"

# A pipe that this script holds open at both ends has never anything to read, and never ends.
if exec {never}<> <(:); then
    stay_fresh 2>/dev/null &
    fresh=$!
    # Or bash would report its end in the payload's stderr.
    disown "$fresh"
fi

if declare -F make_scratch >/dev/null; then make_scratch || exit 74; fi

# Job control gives the payload a process group of its own. In the background, because bash runs no trap while
# it waits for a child in the foreground.
set -m
launch </dev/null {never}<&- &
payload=$!
set +m
# Its stderr is the payload's: bash would write "Killed" and a line number there for a payload that a signal ends.
{ wait "$payload"; } 2>/dev/null
code=$?
# A trap ends `wait` early with a status of its own.
while [ "$code" -gt 128 ] && kill -0 "$payload" 2>/dev/null; do
    { wait "$payload"; } 2>/dev/null
    code=$?
done
# Ended between the trap and the look: bash still knows the true status, once.
wait "$payload" 2>/dev/null
final=$?
[ "$final" = 127 ] || code=$final
exit "$code"
