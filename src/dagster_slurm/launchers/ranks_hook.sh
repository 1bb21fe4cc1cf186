# shellcheck shell=bash
# shellcheck disable=SC2154  # assigned in front of this file
# The directory in which ranks write their ends, as a hook. In front of this file stands, generated and quoted:
#   ranks_files=(NAME TEXT ...)   what lies there before
ranks_begin() {
    local number
    # Of another name for each start: an older one's ends are none of this one's.
    DAGSTER_SLURM_RANKS=$(mktemp -d -- "$place/ranks.XXXXXX") || return
    for ((number = 0; number < ${#ranks_files[@]}; number += 2)); do
        printf '%s\n' "${ranks_files[number + 1]}" >"$DAGSTER_SLURM_RANKS/${ranks_files[number]}" || return
    done
    export DAGSTER_SLURM_RANKS
}

ranks_leave() { rm -rf -- "$DAGSTER_SLURM_RANKS"; }
