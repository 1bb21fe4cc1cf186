# shellcheck shell=sh
# mail.sh ALLOCATION VERB...: the mailbox of a session's allocation, the file ALLOCATION/mail/requests. It is appended to under a
# lock, since O_APPEND is not atomic between the clients of an NFS. Each line ends in " .", by which a reader knows that it
# is whole, and has an empty one before it, which ends what was cut off, as on a full disk. It lies there from the beginning:
# that a file is missing, a client believes for a minute.
#   add CLAIM...   asks for what ATTEMPT/session says, for each claim of an attempt of this allocation; each claim gets its
#                  outcome as from sbatch: the id of the step, and a status
#   say WORD...    a line of these words; prints "relay" if the dispatcher has asked for another allocation to follow
#   close LINES    nothing more is taken, unless there are more than so many lines: status 75
# Status 74: it could not be written; 76: the mailbox is closed, or not there any more.
allocation=$1 mail=$1/mail verb=$2 number=-1
shift 2

# is_old NAME: whether it was made a minute ago, by the clock of the files, which is not this machine's.
is_old() {
    mark=$(mktemp "$mail/.now.XXXXXX" 2>/dev/null) || return
    now=$(stat -c %Y -- "$mark")
    rm -f -- "$mark"
    made=$(stat -c %Y -- "$mail/$1" 2>/dev/null) || return
    [ $((now - made)) -gt 60 ]
}

# One at a time looks at the lock and removes it: another, which has found it old as well, would remove the next holder's.
break_lock() {
    is_old lock || return
    if mkdir -- "$mail/breaking" 2>/dev/null; then
        ! is_old lock || rmdir -- "$mail/lock"
        rmdir -- "$mail/breaking"
    elif is_old breaking; then
        rmdir -- "$mail/breaking"
    fi
} 2>/dev/null

unlock() {
    trap - EXIT
    rmdir -- "$mail/lock" 2>/dev/null
}

# What holds it takes milliseconds: one that is old was left by a process that has died. Without a mailbox there is none.
lock() {
    tries=0
    until mkdir -- "$mail/lock" 2>/dev/null; do
        [ -d "$mail" ] || return
        [ -w "$mail" ] || exit 74
        tries=$((tries + 1))
        [ $((tries % 100)) != 0 ] || break_lock
        sleep 0.02
    done
    trap unlock EXIT
}

append() {
    printf '\n%s .\n' "$*" >>"$mail/requests" || exit 74
}

# Sets `number` to that of the last request, 0 if there is none; -1 if no more are taken. It is near the end, but for a session
# that has been quiet for long.
count() {
    # shellcheck disable=SC2016  # awk expands it
    last='$NF != "." { next } $1 == "run" { last = $2 } $1 == "close" { last = -1 } END { print last }'
    number=$(tail -n 200 -- "$mail/requests" | awk "$last") || exit 74
    [ -n "$number" ] || number=$(awk "$last" "$mail/requests") || exit 74
    number=${number:-0}
}

# take CLAIM: whether it is one of this allocation; sets what its attempt says.
take() {
    attempt=${1%/*/*} try=${1##*/}
    { read -r of job && read -r share; } <"$attempt/session" || return
    [ "$of" = "${allocation##*/runs/}" ] || return
    # As RunDirectory.job_name.
    name=${attempt%/*} numbers=${attempt##*/}.$try
    name=${name##*/}
    [ "$numbers" = 0.0 ] || name=$name.$numbers
} 2>/dev/null

if [ "$verb" = close ]; then
    lock && [ -d "$mail" ] || exit 76
    lines=$(wc -l <"$mail/requests") || exit 74
    [ "$lines" -le "$1" ] || exit 75
    append close
    exit
fi
if lock && [ -d "$mail" ]; then count; fi
if [ "$verb" = say ]; then
    [ "$number" -ge 0 ] || exit 76
    append "$@"
    ! grep -qx 'relay \.' "$mail/requests" || echo relay
    exit
fi

# What is said of each that is taken is in the files before its status is. A status that is empty is none yet: a process for each,
# which would rename it, would be most of what a request takes.
statuses=''
for claim; do
    shift
    take "$claim" || continue
    if [ "$number" -ge 0 ]; then
        number=$((number + 1))
        append run "$number" "${attempt##*/runs/}" "$try" "$name" "$share"
        printf '%s.r%s\n' "$job" "$number" >"$claim/stdout"
        statuses="$statuses 0"
    else
        echo 'dagster-slurm: the session has ended' >"$claim/stderr"
        statuses="$statuses 76"
    fi
    set -- "$@" "$claim/stdout"
done
unlock
[ $# -gt 0 ] || exit 0
sync -- "$@"
for status in $statuses; do
    echo "$status" >"${1%/stdout}/status"
    set -- "$@" "${1%/stdout}/status"
    shift
done
sync -- "$@"
