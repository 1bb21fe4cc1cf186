# shellcheck shell=bash
# shellcheck disable=SC2154  # assigned in front of this file
# A program of many ranks, from the first node: how it is started, and what the ends of its ranks come to. The hook
# `ranks` makes DAGSTER_SLURM_RANKS, a directory of this start alone that all nodes see.
ranks=
way=
started=

say() { printf 'dagster-slurm: %s\n' "$*" >&2; }

# refuse WORDS: the payload is not started.
refuse() {
    say "$*"
    exit 74
}

# srun that gets SIGTERM kills its step at once; Slurm hands a signal of scancel to the ranks.
pass_on() {
    local step=- job=SLURM_JOB_ID_HET_GROUP_$DAGSTER_SLURM_HET_GROUP
    if [ -z "$started" ] && [ -n "$before" ]; then
        made_after "$before"
        started=$REPLY
    fi
    if [ -z "$started" ]; then end_by "$1"; fi
    case $way:$1 in
    srun:TERM | srun:INT | srun:HUP)
        { read -r _ _ _ step <"$DAGSTER_SLURM_RANKS/0"; } 2>/dev/null
        [ "$step" = - ] || scancel "--signal=$1" "${!job:-$SLURM_JOB_ID}.$step" 2>/dev/null
        ;;
    *) kill "-$1" "$started" 2>/dev/null ;;
    esac
}

# mpirun may let the others go on when a rank has failed: that of MPICH 5.0.2 does, if a signal has ended it.
end_after_failure() {
    until [ -e "$DAGSTER_SLURM_RANKS/failed" ]; do sleep 1; done
    sleep 3
    kill -TERM "$1" 2>/dev/null && sleep 5 && kill -KILL "$1" 2>/dev/null
}

# run_ranks COMMAND ...: returns its status.
run_ranks() {
    local status watching='' before=${!:-none}
    # In a process group of its own, where signals of the payload's do not reach it; see pass_on.
    [ "$way" != srun ] || set -m
    "$@" </dev/null &
    started=$!
    set +m
    if [ "$way" = mpirun ]; then
        end_after_failure "$started" &
        watching=$!
    fi
    wait_for "$started"
    status=$?
    [ -z "$watching" ] || kill "$watching" 2>/dev/null
    return "$status"
}

# Sets `missing` (ranks without an end line) and `failed` (CLASS TIME STATUS RANK NODE).
read_ends() {
    local rank word node time status
    missing=() failed=()
    for ((rank = 0; rank < ranks; rank++)); do
        word='' node='' time='' status=''
        { read -r word node time status _ <"$DAGSTER_SLURM_RANKS/$rank"; } 2>/dev/null
        case $word:$status in
        ended:0) ;;
        # Who ends the ranks with SIGKILL ends with it what would note that: this one has died by itself, as out of
        # memory. Others may see that sooner than it is noted, and end with a code of their own.
        ended:137) failed+=("0 $time $status $rank $node") ;;
        # Who was told to end was so because of another.
        ended:143) failed+=("2 $time $status $rank $node") ;;
        ended:*) failed+=("1 $time $status $rank $node") ;;
        begun:*) missing+=("$rank on $node") ;;
        *) missing+=("$rank (never begun)") ;;
        esac
    done
}

# some NAME ...: at most twelve of them.
some() {
    local list
    printf -v list '%s, ' "${@:1:12}"
    printf '%s' "${list%, }"
    [ $# -le 12 ] || printf ' and %s more' "$(($# - 12))"
}

# exit_by_ends STATUS: only the end line of every rank is proof. srun ends with 0 after the loss of a node.
exit_by_ends() {
    local missing failed status rank node
    for _ in 1 2 3 4 5 6; do
        read_ends
        if [ "$1" != 0 ] || [ ${#missing[@]} = 0 ]; then break; fi
        # A file system shows some nodes' files later than others'.
        sleep 0.5
    done
    if [ ${#failed[@]} -gt 0 ]; then
        read -r _ _ status rank node < <(printf '%s\n' "${failed[@]}" | sort -k 1,2n)
        say "rank $rank on $node was the first of $ranks to fail: exit code $status"
    fi
    [ ${#missing[@]} = 0 ] || say "no end of ${#missing[@]} of $ranks ranks: $(some "${missing[@]}")"
    if [ ${#failed[@]} = 0 ] && [ ${#missing[@]} = 0 ]; then
        [ "$1" = 0 ] || say "all $ranks ranks have ended with 0, and what had started them with $1"
        exit "$1"
    fi
    status=${status:-$1}
    [ "$status" != 0 ] || status=74
    exit "$status"
}

catch_signals() {
    local signal
    # shellcheck disable=SC2064  # the name of the signal is meant to be expanded now
    for signal in TERM INT HUP USR1 USR2; do trap "pass_on $signal" "$signal"; done
}
