# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154,SC2317  # read, and assigned, in front of this file; reached through the trap
# The batch script of every job, behind its #SBATCH lines, payload.sh and what stands in front of that, figures.sh and
# samples.sh. Its argument says which try to submit it is. A step of a session is the same script, run by its dispatcher: the
# second argument is the step's id, the third the element of it that this is.
#
# One job runs the payload: whoever makes the symlink `gate` (cluster/claims.py). What has happened is known from
# log/status alone: "start JOB RESTART ..." before the payload, "end JOB RESTART CODE ..." behind it, each written in one
# go. A start without an end says that the script was killed, or that its node is gone; a requeued job counts RESTART up
# and has output files of its own. The end line is written by the trap of EXIT, when nothing of the payload lives any
# more: it has the exit code, how many bytes each log has, so that a reader knows when it has seen all, and what
# was used (figures.sh). Signals are passed to the payload's process group, and waited for. Nothing here may fail the job
# for a reason of ours: a look at memory, a clock or a directory that cannot be had is left out of the line.
claim=$run_directory/claim/${1:-0}

# Sets `owner`, by which the gate names this job; `job`, by which the status file does; and `place`, where its files lie.
# Each task of a job array has a place of its own, and so has each component of a heterogeneous job (component.sh). The gate
# is the array's: there is one task of each number in it. Sets `step` to Slurm's number of a step of a session.
identify() {
    owner=$SLURM_JOB_ID job=$SLURM_JOB_ID place=$run_directory step=
    if [ -n "$component" ]; then
        [ "$components" = 1 ] || job=$owner+$component
        place=$run_directory/elements/$component
        return
    fi
    unset -v DAGSTER_SLURM_HET_GROUP
    if [ -n "$1" ]; then
        owner=$1 job=$1 step=${SLURM_STEP_ID:-$SLURM_STEPID}
        [ -z "$2" ] || job=${SLURM_JOB_ID}_$2.${1#*.} place=$run_directory/elements/$2
        return
    fi
    [ -n "$SLURM_ARRAY_TASK_ID" ] || return
    owner=$SLURM_ARRAY_JOB_ID
    job=${owner}_$SLURM_ARRAY_TASK_ID place=$run_directory/elements/$SLURM_ARRAY_TASK_ID
}
identify "${2-}" "${3-}"
log=$place/log
restart=${SLURM_RESTART_COUNT:-0}

# The first act: whoever takes the gate runs the payload, every other job of this piece of work ends here.
# A symlink is made in one step, on NFS too, and its target names the owner at once. Of an array's tasks the first makes it.
if [ -L "$claim/gate" ] || ! ln -sT -- "$owner" "$claim/gate" 2>/dev/null; then
    if ! taken_by=$(readlink -- "$claim/gate"); then
        say "cannot take $claim/gate, so it is not known whether another job runs this payload; nothing was run"
        exit 75
    fi
    if [ "$taken_by" != "$owner" ]; then
        say "job $taken_by runs this payload; nothing to do"
        exit 0
    fi
fi

# Sets `sizes`: of stdout, stderr and messages, which this shell holds open: what is written to a file that was removed
# counts. And `submitted`, when sbatch has said the job's id, in seconds; of a job that was requeued since, it tells nothing;
# and `touched`, when the run's directory was.
measure() {
    local opened=/proc/$$/fd seen
    # shellcheck disable=SC2207  # numbers
    seen=($(exec stat -Lc '%s %.Y' -- "$opened/"{1,2,7} "${run_directory%/*/*}" "$claim/stdout" 2>/dev/null))
    [ ${#seen[@]} -ge 8 ] || seen=()
    sizes=("${seen[0]:-0}" "${seen[2]:-0}" "${seen[4]:-0}") submitted='' touched=${seen[7]%%[!0-9]*}
    [ "$restart" != 0 ] || submitted=${seen[9]/[!0-9]/.}
}

# Sets `now`, in seconds. The variable is of bash 5, and has the decimal sign of the locale.
look_at_clock() {
    now=${EPOCHREALTIME/[!0-9]/.}
    now=${now:-$(date +%s.%N)}
}

# Sets `pids`: the processes of this job on this node, by their environments. A batch script has started all of its job's
# steps. One that is itself run in a step has started neither the other steps nor what started it.
find_by_environment() {
    local step=${SLURM_STEP_ID:-$SLURM_STEPID}
    # `$(...)` is waited for. What `< <(...)` starts is in the list, and would be one that has not ended.
    # shellcheck disable=SC2207  # these names hold no white space
    pids=($(exec grep -lszxF -- "SLURM_JOB_ID=$SLURM_JOB_ID" /proc/[0-9]*/environ))
    if [ -n "$step" ]; then
        # shellcheck disable=SC2207
        pids=($(exec grep -lszxF -e "SLURM_STEP_ID=$step" -e "SLURM_STEPID=$step" -- /dev/null "${pids[@]}"))
    fi
    pids=("${pids[@]#/proc/}")
    pids=("${pids[@]%/environ}")
}

# Sets `left`: what this script has started on this node, whatever session or group it went to, but for what it looks
# after. Where there is no control group, which is the step's, environments tell; to read everybody's takes its time.
find_leftovers() {
    local pid pids=()
    if [ -n "$group" ]; then
        mapfile -t pids <"$group"
    else
        find_by_environment
    fi
    left=()
    for pid in "${pids[@]}"; do
        # slurmstepd is of the same group, and not ours to signal. 0: of another namespace.
        case " 0 $$ $PPID $fresh $pumps " in *" $pid "*) continue ;; esac
        if kill -0 "$pid" 2>/dev/null; then left+=("$pid"); fi
    done
}

# What the payload left behind would hold the job in COMPLETING for KillWait, 30 s by default (slurm.conf(5)).
sweep() {
    local tries left
    find_group
    for tries in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        find_leftovers
        [ ${#left[@]} -gt 0 ] || return 0
        if [ "$tries" = 1 ]; then kill -TERM "${left[@]}" 2>/dev/null; fi
        sleep 0.1
    done
    kill -KILL "${left[@]}" 2>/dev/null
}

# Sites and users remove what was not touched for some days (`find -mtime +3`). A `sleep` would be one process more to
# end: a pipe that is held open at both ends has never anything to read, and never ends. Between two times it prints what
# it sees of the job's memory: each look costs half a millisecond, and comes after a fifth of the job's age. Where memory is
# short, the kernel drops a file a moment after it was read: what the peak was made of is known by a look before that.
stay_fresh() {
    local pause=0.2 millis=200 touched=$SECONDS most=0 files=0 steps='' said=-1 listed=0 resident cached dropped
    local held=0 next=0 unwritten='' smi
    open_pipe 5 || return
    find_gpu_tool
    [ -n "$job_group" ] || pause=3600
    while :; do
        if [ -n "$job_group" ]; then
            millis=$((millis < 8000 ? millis * 5 / 4 : 10000))
            printf -v pause %d.%03d $((millis / 1000)) $((millis % 1000))
            sample
            note_use "$resident"
        fi
        if [ $((SECONDS - touched)) -ge 3600 ]; then
            touched=$SECONDS
            touch -c -- "${run_directory%/*/*}" >/dev/null
        fi
        read -rt "$pause" -u 5
    done
}

attend() {
    # Once for both.
    find_group
    exec 6< <(stay_fresh 2>/dev/null)
    fresh=$!
}

# Sets `earlier` and `outcome`: of a start of this very incarnation that is on record, and of its end. And `is_done`: in
# the incarnation before, the payload has succeeded, and neither was told to end nor had processes killed.
find_earlier_start() {
    local mark of number third fourth rest last=
    earlier='' outcome='' is_done=''
    [ -e "$log/status" ] || return 0
    while read -r mark of number third fourth rest; do
        case "$mark $of $number" in
        "start $job $restart") earlier=$fourth ;;
        "end $job $restart") outcome=$third ;;
        "start $job "*) last=$number ;;
        "end $job "*)
            case "$third $rest " in *' told='*) ;; '0 '*' killed=0 '*) is_done=$number ;; esac
            ;;
        esac
    done <"$log/status"
    # A node that was given up may write its end when another incarnation has begun.
    [ "$is_done" = "$last" ] || is_done=
}

# Slurm begins a job a second time, and counts no restart, where its controller was killed within three seconds of the
# first start (22.05, 24.11). The payload is not run twice: whatever began first is waited for, unless it is known to be
# dead, which makes this start as good as a requeue.
heed_earlier_start() {
    local left
    find_earlier_start
    if [ -n "$is_done" ]; then
        say "the payload has succeeded before this job was requeued; nothing to do"
        exit 0
    fi
    if [ -z "$earlier" ]; then return; fi
    if [ -n "$step" ]; then
        # Its srun had failed, as far as the dispatcher knew, and what it began has come late.
        say "this step has begun before, on $earlier; nothing to do"
        exit 0
    fi
    say "this job has begun before, on $earlier, and Slurm counts no restart; waiting for the end of that start"
    find_group
    while [ -z "$outcome" ]; do
        if [ "$earlier" = "$node" ]; then
            find_leftovers
            if [ ${#left[@]} = 0 ]; then
                say "nothing of that start is left on $node; running the payload"
                return
            fi
        fi
        sleep 2
        find_earlier_start
    done
    say "that start has ended with status $outcome"
    exit "$outcome"
}

finish() {
    local status=$? line
    # What it prints until now is read later.
    [ -z "$fresh" ] || kill -KILL "$fresh" 2>/dev/null
    finish_payload "$status"
    measure
    look_at_clock
    # As often as `stay_fresh` does.
    [ $((${now%.*} - ${touched:-0})) -lt 3600 ] || touch -c -- "${run_directory%/*/*}"
    take_figures
    tell_use
    printf -v line ' %s' "$job" "$restart" "$code" "$now" "${sizes[@]}" "${node_ends[@]}" "${figures[@]}"
    printf 'end%s\n' "$line" >>"$log/status"
    exit "$code"
}
fresh=
node=${SLURMD_NODENAME:-$(hostname)}
heed_earlier_start
# What has run before may have replaced them.
[ "$restart$earlier" = 0 ] || linked=

# Each incarnation of a requeued job has its own files; readers tell them apart by the restart count.
exec >>"$log/stdout.$restart" 2>>"$log/stderr.$restart"
exec 7>>"$log/messages.$restart"
# That of the first incarnation has come with the directory.
[ "$log/messages" -ef "$log/messages.$restart" ] || ln -sfT -- "messages.$restart" "$log/messages"
trap finish EXIT
catch_signals

look_at_clock
started=$now
printf 'start %s %s %s %s %s%s\n' "$job" "$restart" "$now" "$node" "${SLURM_JOB_NODELIST:-$node}" "${step:+ $step}" >>"$log/status"

exec 6</dev/null
run
