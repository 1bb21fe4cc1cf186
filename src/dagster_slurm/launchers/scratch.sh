# shellcheck shell=bash
# shellcheck disable=SC2154  # assigned in front of this file
# A directory of the node in which the payload works, as a hook. In front of this file stand, generated and quoted:
#   scratch_base=...  scratch_outputs=(...)
scratch=

scratch_begin() {
    local base=${scratch_base:-${SLURM_TMPDIR:-${SCRATCH_LOCAL:-${TMPDIR:-/tmp}}}}
    scratch=$(mktemp -d -- "$base/dagster-slurm.${SLURM_JOB_ID:-$$}.XXXXXX") && return
    say "there can be no scratch directory in $base; nothing was run"
    return 74
}

# A signal ends the copying. Links to what lies on the cluster stay links. What is in the directory is copied and not the
# directory, whose mode would come along: others of the node are to see nothing.
scratch_enter() {
    find "$place/work" -mindepth 1 -maxdepth 1 -exec cp -a -t "$scratch" -- {} + && cd -- "$scratch" &&
        export DAGSTER_SLURM_SCRATCH="$scratch" && return
    say "cannot copy the working directory to $scratch; nothing was run"
    return 74
}

# What is new of the outputs goes back.
scratch_leave() {
    [ -n "$scratch" ] || return 0
    if ! scratch_copy_back; then
        # What nobody has read is not removed.
        say "cannot copy the outputs from $scratch on $(hostname) to $place/work; they are left there"
        return 74
    fi
    rm -rf -- "$scratch" 2>/dev/null || { chmod -R u+rwX -- "$scratch" && rm -rf -- "$scratch"; }
    return 0
}

scratch_copy_back() (
    cd -- "$scratch" && shopt -s globstar nullglob || exit
    IFS=
    for pattern in "${scratch_outputs[@]}"; do
        # shellcheck disable=SC2086  # it is to be expanded, and without IFS is not split
        for path in $pattern; do
            [ -e "$path" ] || continue
            # An input there is the shared content itself: it is replaced, never written to.
            cp -au --remove-destination --parents -- "$path" "$place/work" || exit
        done
    done
)
