# shellcheck shell=bash
# shellcheck disable=SC2154  # assigned in front of this file
# What the job uses of this node, by its control groups there; `nodes_is_here` says that this is no job's node.
# Sets the directories of the job's control groups on this node: nodes_group (version 2), nodes_memory, nodes_cpu (1).
nodes_find_group() {
    local controllers path
    nodes_group=/nowhere nodes_memory=/nowhere nodes_cpu=/nowhere
    [ -z "$nodes_is_here" ] || return 0
    while IFS=: read -r _ controllers path; do
        case $path in
        */job_"$SLURM_JOB_ID"/*) path=${path%%/job_"$SLURM_JOB_ID"/*}/job_$SLURM_JOB_ID ;;
        */"${SLURM_JOB_SLUID:-none}"/*) path=${path%%/"$SLURM_JOB_SLUID"/*}/$SLURM_JOB_SLUID ;;
        *) continue ;;
        esac
        case ,$controllers, in
        ,,) nodes_group=/sys/fs/cgroup$path ;;
        *,memory,*) nodes_memory=/sys/fs/cgroup/$controllers$path ;;
        *,cpuacct,*) nodes_cpu=/sys/fs/cgroup/$controllers$path ;;
        esac
    done </proc/self/cgroup
}

# Prints PEAK_BYTES CPU_MICROSECONDS KILLED of the job on this node, `-` for what its control groups do not tell.
nodes_usage() {
    local peak cpu
    nodes_find_group
    peak=$(cat -- "$nodes_group/memory.peak" "$nodes_memory/memory.max_usage_in_bytes" 2>/dev/null | head -n 1)
    cpu=$(sed -n 's/^usage_usec //p' "$nodes_group/cpu.stat" 2>/dev/null)
    [ -n "$cpu" ] || cpu=$(sed 's/...$//' "$nodes_cpu/cpuacct.usage" 2>/dev/null)
    printf '%s %s %s' "${peak:--}" "${cpu:--}" "$(nodes_killed)"
}

# How many processes the kernel has killed for want of memory. Version 1 counts those of each group for itself.
nodes_killed() {
    nodes_find_group
    if [ -r "$nodes_group/memory.events" ]; then
        sed -n 's/^oom_kill //p' "$nodes_group/memory.events"
    else
        find "$nodes_memory" -name memory.oom_control -exec sed -n 's/^oom_kill //p' {} + 2>/dev/null |
            awk '{ sum += $1 } END { print sum + 0 }'
    fi
}
