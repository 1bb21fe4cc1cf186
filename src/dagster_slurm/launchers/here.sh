# shellcheck shell=bash
# shellcheck disable=SC2154,SC2317  # assigned in front of this file; reached through the trap
# A payload with hooks on this machine, where there is no batch script around them. Behind payload.sh.
attend() { :; }
sweep() {
    [ -n "$payload" ] && kill -KILL -- "-$payload" 2>/dev/null || return
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        kill -0 -- "-$payload" 2>/dev/null || return
        sleep 0.05
    done
}
catch_signals
trap 'finish_payload "$?"; exit "$code"' EXIT
run
