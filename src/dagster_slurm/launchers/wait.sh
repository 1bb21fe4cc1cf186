# shellcheck shell=bash
# Waiting for a child while signals are caught; `launch_script` and `ranks_plan` put it in front of what uses it.

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
