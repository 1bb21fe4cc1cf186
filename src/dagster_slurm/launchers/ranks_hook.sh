# shellcheck shell=bash
# shellcheck disable=SC2154  # assigned in front of this file
# The directory in which ranks write their ends, as a hook. In front of this file stand, generated and quoted:
#   ranks_program=...  what the first node runs        ranks_rank=...  what each rank runs
ranks_begin() {
    # Of another name for each start: an older one's ends are none of this one's.
    DAGSTER_SLURM_RANKS=$(mktemp -d -- "$place/ranks.XXXXXX") || return
    printf '%s\n' "$ranks_program" >"$DAGSTER_SLURM_RANKS/program.sh" || return
    printf '%s\n' "$ranks_rank" >"$DAGSTER_SLURM_RANKS/rank.sh" || return
    export DAGSTER_SLURM_RANKS
}

ranks_leave() { rm -rf -- "$DAGSTER_SLURM_RANKS"; }
