# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read, and assigned, behind this file
# What the job has used of this node, for its end line; in front of batch.sh. Nothing here starts a process: the kernel's
# files are read by bash itself, and each as a whole. A `read` gives back what it has read behind its line, so that the kernel
# makes all of the file again for the next one: `memory.stat` in 0.6 ms, and not in 0.3.
groups_root=/sys/fs/cgroup groups_list=/proc/self/cgroup
group='' job_group='' memory_group='' cpu_group=''

# Sets `group`: what lists the processes of the control group in which Slurm has put this script, if it has. And the
# directories of the whole job, with all of its steps: `job_group` in any controller; `memory_group` and `cpu_group`
# where its memory and its CPU time are counted, empty if they are not. With control groups of version 2, those of 26.05
# are not called by the job's id but by its SLUID. Those of a component have its own number: SLURM_JOB_ID is the leader's. Of
# a step of a session, the directory is that of the step. What was found stays so.
find_group() {
    local line lines=() controllers path whole number=SLURM_JOB_ID_HET_GROUP_$DAGSTER_SLURM_HET_GROUP
    [ -z "$job_group" ] || return 0
    number=${!number:-$SLURM_JOB_ID}
    group='' job_group='' memory_group='' cpu_group=''
    mapfile -t lines <"$groups_list"
    for line in "${lines[@]}"; do
        # A number, the controllers, and the path.
        controllers=${line#*:} path=${line#*:*:}
        controllers=${controllers%%:*}
        case $path in
        */job_"$number"/*) whole=${path%%/job_"$number"/*}/job_$number ;;
        */"${SLURM_JOB_SLUID:-none}"/*) whole=${path%%/"$SLURM_JOB_SLUID"/*}/$SLURM_JOB_SLUID ;;
        *) continue ;;
        esac
        [ -z "$step" ] || whole=$whole/step_$step
        path=$groups_root/$controllers$path/cgroup.procs job_group=$groups_root/$controllers$whole
        if [ -z "$group" ] && [ -r "$path" ]; then group=$path; fi
        case ,$controllers, in
        ,,)
            cpu_group=$job_group
            # Of a group that can be seen, the files of a controller that is not used are missing.
            if [ -e "$job_group/memory.stat" ] || [ ! -d "$job_group" ]; then memory_group=$job_group; fi
            ;;
        *,memory,*) memory_group=$job_group ;;
        *,cpuacct,*) cpu_group=$job_group ;;
        esac
    done
} 2>/dev/null

# Sets `resident`, the job's anonymous and shared memory in bytes, and `cached`, its files in memory without that; both
# empty if they cannot be told. And `dropped`, the files that the kernel has taken back for want of memory; 0 with
# version 1, which does not tell.
read_memory() {
    local text='' shared=0 end=$'\n'
    resident='' cached='' dropped=0
    # As one text: to take its forty lines one by one costs twice as much as all the rest.
    read -rd '' text <"$memory_group/memory.stat"
    text=$end$text$end
    # Version 1 has a group's own besides the total.
    if [[ $text =~ ${end}total_rss\ ([0-9]+)$end ]]; then
        resident=${BASH_REMATCH[1]}
        if [[ $text =~ ${end}total_cache\ ([0-9]+)$end ]]; then cached=${BASH_REMATCH[1]}; fi
        if [[ $text =~ ${end}total_shmem\ ([0-9]+)$end ]]; then shared=${BASH_REMATCH[1]}; fi
    elif [[ $text =~ ${end}anon\ ([0-9]+)$end ]]; then
        resident=${BASH_REMATCH[1]}
        if [[ $text =~ ${end}file\ ([0-9]+)$end ]]; then cached=${BASH_REMATCH[1]}; fi
        if [[ $text =~ ${end}shmem\ ([0-9]+)$end ]]; then shared=${BASH_REMATCH[1]}; fi
        # A page has 4 KiB at least.
        if [[ $text =~ ${end}pgsteal\ ([0-9]+)$end ]]; then dropped=$((BASH_REMATCH[1] * 4096)); fi
    fi
    if [ -n "$resident" ] && [ -n "$cached" ]; then
        resident=$((resident + shared)) cached=$((cached - shared))
    else
        resident='' cached=''
    fi
} 2>/dev/null

# has_steps: whether srun has a step of this job here. The script's own is `step_batch`.
has_steps() {
    local step
    for step in "$job_group"/step_[0-9]*; do [ -d "$step" ] && return; done
    return 1
}

# Prints, whenever it has grown by a sixteenth, "MEMORY FILES STEPS": the most anonymous and shared memory, and the most of
# files, that was seen; and whether there was a step. `stay_fresh` keeps what it knows. Sets what `read_memory` does.
sample() {
    read_memory
    if [ "${resident:-0}" -gt "$most" ]; then most=$resident; fi
    if [ "${cached:-0}" -gt "$files" ]; then files=$cached; fi
    if [ -z "$steps" ] && has_steps; then steps=yes said=-1; fi
    [ -n "$resident$steps" ] || return
    if [ "$most" -gt $((said + said / 16)) ] || [ "$files" -gt $((listed + listed / 16)) ]; then
        said=$most listed=$files
        printf '%s %s %s\n' "$most" "$files" "$steps"
    fi
}

# first_line FILE...: the first line of the first that can be read, if it is a number.
first_line() {
    local file line=
    for file; do
        if { read -r line <"$file"; } 2>/dev/null; then break; fi
    done
    [[ $line =~ ^[0-9]+$ ]] && number=$line
}

# Sets `moved`: how many bytes this shell, and what it has started and waited for, have read and written at most; 0 if that
# is not known. A file in memory is counted as read by a call or, where it is mapped, when it comes from the disk.
read_moved() {
    local line lines=() calls=(0 0) disk=(0 0)
    mapfile -t lines <"/proc/$$/io"
    for line in "${lines[@]}"; do
        case $line in
        'rchar: '*) calls[0]=${line#* } ;;
        'wchar: '*) calls[1]=${line#* } ;;
        'read_bytes: '*) disk[0]=${line#* } ;;
        'write_bytes: '*) disk[1]=${line#* } ;;
        esac
    done
    moved=$(((calls[0] > disk[0] ? calls[0] : disk[0]) + (calls[1] > disk[1] ? calls[1] : disk[1])))
} 2>/dev/null

# measure_memory MOST FILES: adds the most memory that the job has had at once to the figures. The kernel's peak counts the
# files that were read and written, so that what of them is there at the end, or was taken back, is taken off; if there was
# more of them before, that tells nothing. Nor does it where most of it may be files that came and went unseen: there were
# no more of these than was read and written. What was seen of anonymous and shared memory is no less than it was. A
# process that was killed for want of memory had no file left to be dropped: the peak is the job's own.
measure_memory() {
    local resident cached dropped moved number='' own most=$1 files=${2:-0}
    read_memory
    [ -n "$resident" ] || return
    if [ "$resident" -gt "${most:--1}" ]; then most=${most:+$resident}; fi
    if [ "$files" -le $((cached + cached / 16 + 1048576)) ] &&
        first_line "$memory_group/memory.peak" "$memory_group/memory.max_usage_in_bytes"; then
        own=$((number - cached - dropped))
        read_moved
        if [ $((moved - cached)) -gt $((own / 2)) ] && [[ " ${figures[*]}" != *" killed="[1-9]* ]]; then
            own=$((own + cached - moved))
        fi
        if [ "$own" -gt "${most:-0}" ]; then most=$own; fi
    fi
    [ -z "$most" ] || figures+=("memory=$most")
}

# Sets `number`, the CPU time that the job's group has counted, in microseconds; it stays as it is if there is none.
read_group_cpu() {
    local line lines=()
    mapfile -t lines <"$cpu_group/cpu.stat"
    for line in "${lines[@]}"; do
        case $line in 'usage_usec '*) number=${line#* } ;; esac
    done
    if [ -z "$number" ] && first_line "$cpu_group/cpuacct.usage"; then number=$((number / 1000)); fi
} 2>/dev/null

# measure_cpu STEPS: adds the job's CPU time, in microseconds. Where no group counts it, this shell knows that of all that
# it has started and waited for, as Slurm does of a batch script; but not that of steps, which slurmstepd starts.
measure_cpu() {
    local number='' stat
    if [ -n "$cpu_group" ]; then
        read_group_cpu
    elif [ -n "$job_group" ] && [ -z "$1" ] && ! has_steps && read -r stat <"/proc/$$/stat"; then
        # proc(5): utime, stime, cutime and cstime, in hundredths of a second.
        # shellcheck disable=SC2086  # several words
        set -- ${stat##*) }
        number=$(((${12} + ${13} + ${14} + ${15}) * 10000))
    fi
    [[ ! $number =~ ^[0-9]+$ ]] || figures+=("cpu=$number")
} 2>/dev/null

# Adds how many processes of the job the kernel has killed for want of memory. Version 1 counts those of each group for
# itself; those below are not called as the kernel's files are, to look at each of which costs more than all the rest. Where
# Slurm has made no group for memory, it holds nobody to any, and calls no job OUT_OF_MEMORY.
count_killed() {
    local line lines file sum=
    if [ -z "$memory_group" ]; then
        figures+=("killed=0")
        return
    fi
    for file in "$memory_group"/memory.events "$memory_group"/{,[!cmn]*/,[!cmn]*/[!cmn]*/}memory.oom_control; do
        if [ ! -r "$file" ]; then continue; fi
        lines=()
        mapfile -t lines <"$file"
        for line in "${lines[@]}"; do
            case $line in 'oom_kill '*) sum=$((sum + ${line#* })) ;; esac
        done
    done
    [ -z "$sum" ] || figures+=("killed=$sum")
} 2>/dev/null

# Sets `figures`: what the end line tells besides, NAME=VALUE each; what is not known is left out. What `sample` has printed
# is read from descriptor 6.
take_figures() {
    local most='' files='' steps='' seen_most seen_files seen_steps
    figures=("started=$started" ${submitted:+"submitted=$submitted"} ${told:+"told=$told"})
    figures+=(${SLURM_JOB_NUM_NODES:+"nodes=$SLURM_JOB_NUM_NODES"} ${SLURM_GPUS_ON_NODE:+"gpus=$SLURM_GPUS_ON_NODE"})
    figures+=(${SLURM_JOB_CPUS_PER_NODE:+"cpus=$SLURM_JOB_CPUS_PER_NODE"})
    if [ -n "$SLURM_MEM_PER_NODE" ]; then
        figures+=("mem_mib=$SLURM_MEM_PER_NODE")
    elif [ -n "$SLURM_MEM_PER_CPU" ] && [ -n "$SLURM_CPUS_ON_NODE" ]; then
        figures+=("mem_mib=$((SLURM_MEM_PER_CPU * SLURM_CPUS_ON_NODE))")
    fi
    while read -rt 1 -u 6 seen_most seen_files seen_steps; do
        most=$seen_most files=$seen_files steps=$seen_steps
    done
    find_group
    count_killed
    [ -z "$memory_group" ] || measure_memory "$most" "$files"
    measure_cpu "$steps"
} 2>/dev/null
