# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read or assigned in front of this file
# What the job uses of this node, by its control groups there; `nodes_is_here` says that this is no job's node. What reads
# them is figures.sh, which stands in the batch script and goes to every node with all other functions.
nodes_find_group() {
    groups_root=${groups_root:-/sys/fs/cgroup} groups_list=${groups_list:-/proc/self/cgroup}
    group='' job_group='' memory_group='' cpu_group=''
    [ -n "$nodes_is_here" ] || find_group
}

# Keeps the most memory, and the most of files, that was seen on this node: half a millisecond.
nodes_look() {
    local most=${nodes_most:-0} files=${nodes_files:-0} steps=yes said=0 listed=0 resident cached dropped
    [ -n "$memory_group" ] || return 0
    sample >/dev/null
    nodes_most=$most nodes_files=$files
}

# Prints PEAK_BYTES CPU_MICROSECONDS KILLED of the job on this node, `-` for what its control groups do not tell. The peak
# is without files, as far as they are in memory at the end.
nodes_usage() {
    local figures=() each peak=- cpu=- killed=0
    nodes_find_group
    [ -z "$memory_group" ] || count_killed
    [ -z "$memory_group" ] || measure_memory "$nodes_most" "$nodes_files"
    [ -z "$cpu_group" ] || measure_cpu ''
    for each in "${figures[@]}"; do
        case $each in
        memory=*) peak=${each#*=} ;;
        cpu=*) cpu=${each#*=} ;;
        killed=*) killed=${each#*=} ;;
        esac
    done
    printf '%s %s %s' "$peak" "$cpu" "$killed"
}

# How many processes the kernel has killed for want of memory; 0 where it does not tell.
nodes_killed() {
    local figures=()
    nodes_find_group
    [ -z "$memory_group" ] || count_killed
    printf '%s' "$((${figures[0]#*=}))"
}
