# shellcheck shell=sh
# lifeline.sh DESCRIPTOR COMMAND [ARGUMENT ...]: becomes the command, and ends it when the process that holds the other end
# of the descriptor goes away without a word: killed, it ends nothing itself, and ssh with a TTY sees no end of its stdin.
lifeline=$1
shift
(
    exec <"/dev/fd/$lifeline" >/dev/null 2>&1
    read -r _ || kill "$$"
) &
exec "$@"
