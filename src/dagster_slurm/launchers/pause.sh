# shellcheck shell=bash
# Waiting for a while. It stands in front of what uses it: every payload's script, a task of `nodes.sh`, a session's dispatcher.

# pause_on SECONDS PIPE: until a line comes, which is in REPLY then, at most as long; over 128: none has come, 1: nobody can write
# any more. Nothing is forked for it where bash waits in select(2). Before 5.2 an alarm ends its `read -t`, and one that comes between
# the last look for it and read(2) is lost: of 90 steps on a busy node one never ended (5.1.4). There a process sleeps.
pause_on() {
    REPLY=
    if [ $((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1])) -ge 502 ]; then
        read -rt "$1" -u "$2"
        return
    fi
    sleep "$1"
    read -t 0 -u "$2" || return 142
    read -r -u "$2"
}
