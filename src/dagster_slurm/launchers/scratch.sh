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
    # shellcheck disable=SC2016  # it is the inner shell's
    find "$place/work" -mindepth 1 -maxdepth 1 -exec sh -c 'cp -a -- "$@" "$0"' "$scratch" {} + && cd -- "$scratch" &&
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
    cd -- "$scratch" && shopt -s nullglob || exit
    # bash 3.2, which macOS has, would read `**` as `*`.
    shopt -s globstar 2>/dev/null || scratch_needs_no_globstar || exit
    IFS=
    for pattern in "${scratch_outputs[@]}"; do
        # shellcheck disable=SC2086  # it is to be expanded, and without IFS is not split
        for path in $pattern; do
            [ -e "$path" ] || continue
            scratch_put "$path" "$place/work" || exit
        done
    done
)

scratch_needs_no_globstar() {
    case "${scratch_outputs[*]}" in *'**'*)
        say "an output with ** needs bash 4 or newer, and this is $BASH_VERSION"
        return 1
        ;;
    esac
}

# An input there is the shared content itself: it is replaced, never written to. Only GNU's cp has what this takes.
scratch_put() {
    if cp --version >/dev/null 2>&1; then
        cp -au --remove-destination --parents -- "$1" "$2"
        return
    fi
    case $1 in */*) mkdir -p -- "$2/${1%/*}" || return ;; esac
    # What lay there was copied here before.
    rm -rf -- "${2:?}/$1" && cp -a -- "$1" "$2/$1"
}
