# shellcheck shell=bash
# Waiting for a child while signals are caught, and their end; `launch_script` and `ranks_plan` put it in front of what uses it.

# wait_for PID: until it has ended; returns its status. stderr is the payload's: bash would write "Killed" and a line number
# there for a process that a signal ends.
wait_for() {
    local status final
    { wait "$1"; } 2>/dev/null
    status=$?
    # A trap ends `wait` early with a status of its own.
    while [ "$status" -gt 128 ] && kill -0 "$1" 2>/dev/null; do
        { wait "$1"; } 2>/dev/null
        status=$?
    done
    # Ended between the trap and the look: bash still knows the true status, once.
    { wait "$1"; } 2>/dev/null
    final=$?
    [ "$final" = 127 ] || status=$final
    return "$status"
}

# made_after PROCESS: sets REPLY to what was made in the background since `$!` was that; to nothing if nothing was. A trap may
# come when bash has made a process, and before the next command has noted which one it is.
made_after() {
    REPLY=
    [ "$!" = "$1" ] || REPLY=$!
}

# end_by SIGNAL: exits with the status of what this signal ends. In a trap no `$(kill -l ...)` may tell it: where the trap has
# come into a `read -t`, its time would end in there, and bash would go back to that `read` and, at its exit, abort ("longjmp
# causes uninitialized stack frame", bash 5.2).
end_by() {
    case $1 in
    HUP) exit 129 ;;
    INT) exit 130 ;;
    USR1) exit 138 ;;
    USR2) exit 140 ;;
    *) exit 143 ;;
    esac
}
