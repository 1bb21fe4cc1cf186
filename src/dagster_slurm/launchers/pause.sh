# shellcheck shell=bash
# Waiting for a while, and pipes. In front of what uses it: every payload's script, a task of `nodes.sh`, a session's dispatcher.

# pauses_alone: whether nothing is forked for a pause.
pauses_alone() { [ $((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1])) -ge 502 ]; }

# pause_on SECONDS PIPE: until a line comes, which is in REPLY then, at most as long; over 128: none has come, 1: nobody can write
# any more. Nothing is forked for it where bash waits in select(2). Before 5.2 an alarm ends its `read -t`, and one that comes between
# the last look for it and read(2) is lost: of 90 steps on a busy node one never ended (5.1.4). There a process sleeps.
pause_on() {
    REPLY=
    if pauses_alone; then
        read -rt "$1" -u "$2"
        return
    fi
    sleep "$1"
    read -t 0 -u "$2" || return 142
    read -r -u "$2"
}

# open_pipe FD: opens a pipe there at both ends: it never ends, and what nobody writes to has never anything to read. From 5.1 on
# a short here-string is a pipe, which is opened once more by its name; before, a process makes one.
open_pipe() {
    if [ $((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1])) -ge 501 ] && eval "exec $1<<<''" &&
        [ -p "/proc/self/fd/$1" ] && read -r -u "$1"; then
        eval "exec $1<>/proc/self/fd/$1"
    else
        eval "exec $1<> <(:)"
    fi
}
