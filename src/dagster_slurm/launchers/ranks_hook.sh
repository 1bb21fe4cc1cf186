# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read or assigned in front of this file
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

# Sets `node_ends` by what the ranks have noted: of each node the worst end, and the largest figures.
ranks_end() {
    local file word node status peak cpu killed
    local -A causes=() peaks=() cpus=() kills=()
    for file in "$DAGSTER_SLURM_RANKS"/[0-9]*; do
        word='' node='' status='' peak='' cpu='' killed=''
        { read -r word node _ status peak cpu killed <"$file"; } 2>/dev/null
        [ -n "$node" ] || continue
        case $word:$status:${causes[$node]} in
        ended:0:*) causes[$node]=${causes[$node]:-stopped} ;;
        ended:*:lost) ;;
        ended:*) causes[$node]=died ;;
        *) causes[$node]=lost ;;
        esac
        [ "${peak:--}" = - ] || [ "$peak" -le "${peaks[$node]:-0}" ] || peaks[$node]=$peak
        [ "${cpu:--}" = - ] || [ "$cpu" -le "${cpus[$node]:-0}" ] || cpus[$node]=$cpu
        [ "${killed:--}" = - ] || [ "$killed" -le "${kills[$node]:-0}" ] || kills[$node]=$killed
    done
    for node in "${!causes[@]}"; do
        node_ends+=("$node:${causes[$node]}:${peaks[$node]:--}:${cpus[$node]:--}:${kills[$node]:-0}")
    done
}

ranks_leave() { rm -rf -- "$DAGSTER_SLURM_RANKS"; }
