# shellcheck shell=sh

dagster_slurm_begin() {
    # Of four digits all: a pattern sorts by name.
    dagster_slurm_count=$((dagster_slurm_count + 1))
    dagster_slurm_in=/dev/null
    if [ "$1" -gt 0 ]; then
        dagster_slurm_in=$dagster_slurm_here/$dagster_slurm_count.in
        head -c "$1" >"$dagster_slurm_in"
    fi
    (eval "$2") <"$dagster_slurm_in" \
        >"$dagster_slurm_here/$dagster_slurm_count.out" 2>"$dagster_slurm_here/$dagster_slurm_count.err" &
    dagster_slurm_pids="$dagster_slurm_pids $!"
}

# together NONCE [STDIN_BYTES SCRIPT ...]: several scripts side by side, each as if it were alone.
# Output: for each, in their order, what it wrote and "NEWLINE NONCE SPACE STATUS NEWLINE"; the same on stderr.
# Status 74: there is no directory for temporary files, and nothing was run.
together() {
    dagster_slurm_nonce=$1
    dagster_slurm_here=$(mktemp -d "${TMPDIR:-/tmp}/.dagster-slurm.XXXXXX") || exit 74
    trap 'rm -rf -- "$dagster_slurm_here"' EXIT
    dagster_slurm_count=1000 dagster_slurm_pids=
    shift
    while [ "$#" -gt 0 ]; do
        dagster_slurm_begin "$1" "$2"
        shift 2
    done
    dagster_slurm_count=1000
    for dagster_slurm_pid in $dagster_slurm_pids; do
        dagster_slurm_count=$((dagster_slurm_count + 1))
        wait "$dagster_slurm_pid"
        dagster_slurm_status=$?
        for dagster_slurm_kind in out err; do
            printf '\n%s %s\n' "$dagster_slurm_nonce" "$dagster_slurm_status" \
                >>"$dagster_slurm_here/$dagster_slurm_count.$dagster_slurm_kind"
        done
    done
    cat -- "$dagster_slurm_here"/*.out
    cat -- "$dagster_slurm_here"/*.err >&2
}
