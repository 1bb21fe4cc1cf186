# shellcheck shell=bash
# shellcheck disable=SC2153,SC2154  # RANK is torchrun's; the others are assigned in front of this file
# One rank of a program of many. In front of this file stands, generated and quoted:
#   unheard=...   DAGSTER_PIPES_MESSAGES of every rank but the first: one rank reports
# usage: rank.sh WAY COMMAND ...
# In DAGSTER_SLURM_RANKS, which is of this start alone, a file named by the rank has one line:
#   begun NODE TIME STEP, then ended NODE TIME STATUS
way=$1
case $way in
srun) rank=$SLURM_PROCID ;;
# Not SLURM_PROCID: that is the number of the daemon which mpirun has started on this node.
mpirun) rank=${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-$PMI_RANK}} ;;
torchrun) rank=$RANK ;;
esac
shift
# Not SLURMD_NODENAME: mpirun hands on what it has itself.
node=$(uname -n)
node=${node%%.*}
export DAGSTER_SLURM_RANK=$rank
[ "$rank" = 0 ] || export DAGSTER_PIPES_MESSAGES=$unheard

note() {
    local file=$DAGSTER_SLURM_RANKS/$rank
    printf '%s\n' "$*" >"$file.new" && mv -f -- "$file.new" "$file"
}

# A rank that is told to end still has something to say: what marks its lines ends when they do, not before.
mark() {
    trap '' TERM INT HUP USR1 USR2
    exec sed -u "s/^/[$rank] /"
}

# Slurm signals the first process of a task alone (proctrack/cgroup). It sends SIGTERM when it ends a job, and so does the
# batch script: one is enough.
# shellcheck disable=SC2317  # reached through traps
pass_on() {
    if [ -z "$payload" ]; then
        made_after "$before"
        payload=$REPLY
    fi
    if [ -z "$payload" ]; then end_by "$1"; fi
    # torchrun signals the group of a rank, whose payload has it already.
    [ "$way" != torchrun ] && [ "$1 $passed" != "TERM TERM" ] || return
    passed=$1
    kill "-$1" "$payload" 2>/dev/null
}

# The variable is of bash 5, and has the decimal sign of the locale.
look_at_clock() {
    now=${EPOCHREALTIME/[!0-9]/.}
    now=${now:-$(date +%s.%N)}
}

exec {out}>&1 {err}>&2 || exit
exec > >(mark >&"$out")
marking=$!
exec 2> >(mark >&"$err")
marking="$marking $!"
exec {out}>&- {err}>&-
look_at_clock
note "begun $node $now ${SLURM_STEP_ID:--}"
payload=
before=$!
# Not SIGCONT, which Slurm sends right before SIGTERM: of two at once, bash (5.2) has left the second for later.
for signal in TERM INT HUP USR1 USR2; do
    # shellcheck disable=SC2064  # the name of the signal is meant to be expanded now
    trap "pass_on $signal" "$signal"
done
"$@" </dev/null &
payload=$!
wait_for "$payload"
status=$?
look_at_clock
# One that aborts the others has noted that itself.
noted=
{ read -r noted _ <"$DAGSTER_SLURM_RANKS/$rank"; } 2>/dev/null
if [ "$status" = 0 ] || [ "$noted" != ended ]; then note "ended $node $now $status"; fi
[ "$status" = 0 ] || : >"$DAGSTER_SLURM_RANKS/failed"
# What marks the lines has read all of them soon after; a process that the rank has left behind may hold them open.
exec >/dev/null 2>&1
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    # shellcheck disable=SC2086  # several words
    kill -0 $marking 2>/dev/null || break
    sleep 0.05
done
exit "$status"
