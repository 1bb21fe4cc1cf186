# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034  # assigned in front of this file; read by what it is put in front of
# A directory of the node in which the payload works. In front of this file stand, generated and quoted:
#   scratch_base=...  scratch_work=...  scratch_outputs=(...)
scratch=

# Before the payload is started, by the shell that will leave it.
make_scratch() {
    local base=${scratch_base:-${SLURM_TMPDIR:-${SCRATCH_LOCAL:-${TMPDIR:-/tmp}}}}
    scratch=$(mktemp -d -- "$base/dagster-slurm.${SLURM_JOB_ID:-$$}.XXXXXX") && return
    printf 'dagster-slurm: there can be no scratch directory in %s; nothing was run\n' "$base" >&2
    return 74
}

# By the payload's own process group: a signal ends the copying. Links to what lies on the cluster stay links.
enter_scratch() {
    cp -a -- "$scratch_work/." "$scratch" && cd -- "$scratch" && return
    printf 'dagster-slurm: cannot copy the working directory to %s; nothing was run\n' "$scratch" >&2
    return 74
}

# When the payload has ended, however it did: what is new of the outputs goes back.
leave_scratch() {
    local status=0
    [ -n "$scratch" ] || return 0
    (
        cd -- "$scratch" && shopt -s globstar nullglob || exit
        IFS=
        for pattern in "${scratch_outputs[@]}"; do
            # shellcheck disable=SC2086  # it is to be expanded, and without IFS is not split
            for path in $pattern; do
                [ -e "$path" ] || continue
                # An input there is the shared content itself: it is replaced, never written to.
                cp -au --remove-destination --parents -- "$path" "$scratch_work" || exit
            done
        done
    ) || status=74
    if [ "$status" != 0 ]; then
        # What nobody has read is not removed.
        printf 'dagster-slurm: cannot copy the outputs from %s on %s to %s; they are left there\n' \
            "$scratch" "$(hostname)" "$scratch_work" >&2
        scratch=
        return "$status"
    fi
    rm -rf -- "$scratch" 2>/dev/null || { chmod -R u+rwX -- "$scratch" && rm -rf -- "$scratch"; }
    scratch=
    return "$status"
}

# make_scratch, launch and leave_scratch, where there is no batch script around them.
launch_in_scratch() {
    local code
    make_scratch || return
    # The signal is for the whole process group; this shell goes on when the payload has ended.
    trap : TERM INT HUP
    (launch)
    code=$?
    leave_scratch || [ "$code" != 0 ] || code=74
    return "$code"
}
