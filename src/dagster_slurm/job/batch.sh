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

mkdir -p -- "${run_directory%/*}/checkpoint"

# Each incarnation of a requeued job has its own files; readers tell them apart by the restart count.
exec >>"$log/stdout.$restart" 2>>"$log/stderr.$restart"
: >>"$log/messages.$restart" && ln -sfT -- "messages.$restart" "$log/messages"

bytes_of() { stat -c %s -- "$log/$1.$restart" 2>/dev/null || printf 0; }

# Processes of this job on this node, whatever session or group they went to, but for this script.
leftovers() {
    local file pid
    # shellcheck disable=SC2013  # these names hold no white space
    for file in $(grep -lszxF -- "SLURM_JOB_ID=$SLURM_JOB_ID" /proc/[0-9]*/environ); do
        pid=${file#/proc/}
        pid=${pid%/environ}
        if [ "$pid" != "$$" ] && [ "$pid" != "$BASHPID" ] && [ -d "/proc/$pid" ]; then printf '%s\n' "$pid"; fi
    done
}

# What the payload left behind would hold the job in COMPLETING for KillWait, 30 s by default (slurm.conf(5)).
sweep() {
    local tries left
    for tries in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        mapfile -t left < <(leftovers)
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
    printf 'end %s %s %s %s %s %s %s\n' "$job" "$restart" "$code" "$(date +%s.%N)" \
        "$(bytes_of stdout)" "$(bytes_of stderr)" "$(bytes_of messages)" >>"$log/status"
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

printf 'start %s %s %s %s\n' "$job" "$restart" "$(date +%s.%N)" "${SLURMD_NODENAME:-$(hostname)}" >>"$log/status"

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
