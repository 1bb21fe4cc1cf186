# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read, and assigned, behind and in front of this file
# What the job uses of this node as time goes on; between figures.sh and batch.sh. `stay_fresh` looks, and writes a line
# into log/usage.RESTART in pauses of at least half a second, and a twentieth of the job's age: some 190 lines in a week.
# Its end line takes them along.

# Sets `number`, the CPU time of the job in microseconds; empty if it cannot be told. Where no group counts it, that of the
# processes in its groups, and of their children that have ended and were waited for.
read_cpu() {
    local processes pid stat ticks=0
    number=''
    if [ -n "$cpu_group" ]; then
        read_group_cpu
        return
    fi
    for processes in "$job_group"/{,[!cmn]*/,[!cmn]*/[!cmn]*/}cgroup.procs; do
        if [ ! -r "$processes" ]; then continue; fi
        while read -r pid; do
            stat=''
            # To its end, as in `measure_pumps`.
            read -rd '' stat <"/proc/$pid/stat"
            if [ -z "$stat" ]; then continue; fi
            # proc(5): utime, stime, cutime and cstime, in hundredths of a second.
            # shellcheck disable=SC2086  # several words
            set -- ${stat##*) }
            ticks=$((ticks + ${12} + ${13} + ${14} + ${15})) number=0
        done <"$processes"
    done
    number=${number:+$((ticks * 10000))}
} 2>/dev/null

# Sets `smi`: the command that tells of the job's own GPUs, empty without any. Where Slurm holds a job to its devices,
# NVIDIA's tool sees no others and counts them from 0, as CUDA_VISIBLE_DEVICES does; AMD's looks past that.
find_gpu_tool() {
    local own
    smi=()
    [ "${SLURM_GPUS_ON_NODE:-0}" != 0 ] || return
    own=${CUDA_VISIBLE_DEVICES:-$SLURM_JOB_GPUS}
    if [ -n "$own" ] && command -v nvidia-smi; then
        # shellcheck disable=SC2054  # the tool's own commas
        smi=(nvidia-smi "--id=$own" --query-gpu=utilization.gpu,memory.used --format=csv,noheader,nounits)
        return
    fi
    own=${SLURM_JOB_GPUS:-$ROCR_VISIBLE_DEVICES}
    if [ -n "$own" ] && command -v rocm-smi; then
        # shellcheck disable=SC2206  # several words
        smi=(rocm-smi -d ${own//,/ } --showuse --showmeminfo vram --csv)
    fi
} >/dev/null

# Sets `gpus` to "PERCENT:MIB", the mean use of the job's GPUs and the memory used of all of them; empty if it is not known.
# A tool that has not answered in time is not asked again.
read_gpus() {
    local line began=$SECONDS columns=(busy used) words at busy used percents=0 known=0 bytes=0 count=0
    gpus=''
    [ ${#smi[@]} -gt 0 ] || return
    while IFS= read -rt 5 line; do
        IFS=, read -ra words <<<"${line// /}"
        case $line in
        device,*) columns=("${words[@]}") && continue ;;
        card[0-9]*,* | [0-9[]*,*) count=$((count + 1)) busy='' used='' ;;
        *) continue ;;
        esac
        for at in "${!words[@]}"; do
            if [[ ! ${words[at]} =~ ^[0-9]+$ ]]; then continue; fi
            case ${columns[at]} in
            busy | 'GPUuse(%)') busy=${words[at]} ;;
            used) used=$((words[at] * 1048576)) ;;
            'VRAMTotalUsedMemory(B)') used=${words[at]} ;;
            esac
        done
        if [ -n "$busy" ]; then percents=$((percents + busy)) known=$((known + 1)); fi
        bytes=$((bytes + ${used:-0}))
    done < <(exec timeout -s KILL 5 "${smi[@]}")
    if [ $((SECONDS - began)) -ge 5 ]; then smi=(); fi
    if [ "$count" = 0 ]; then return; fi
    gpus=-:$(((bytes + 524288) / 1048576))
    if [ "$known" -gt 0 ]; then gpus=$((percents / known))${gpus#-}; fi
}

# Sets `age`: of the job's start, in tenths of a second. Bash 4 knows whole ones.
find_age() {
    if [ -n "$EPOCHREALTIME" ]; then
        age=$(((${EPOCHREALTIME/[!0-9]/} - ${started/[!0-9]/}) / 100000))
    else
        age=$((SECONDS * 10))
    fi
}

# note_use RESIDENT: writes "AGE:CPU:MEMORY", in tenths and hundredths of a second and MiB, and ":PERCENT:MIB" of GPUs if the
# job has any; `-` for what is not known. The memory is the most that was seen since the line before. `stay_fresh` keeps what
# is to be known. Of a job of two seconds, nothing is written.
note_use() {
    local age number gpus='' cpu=- mib=-
    if [ "${1:-0}" -gt "$held" ]; then held=$1; fi
    find_age
    [ "$age" -ge "$next" ] || return
    read_cpu
    [ -n "$number$1" ] || return
    [ -z "$number" ] || cpu=$((number / 10000))
    [ -z "$1" ] || mib=$(((held + 524288) / 1048576))
    [ "$age" -lt 20 ] || read_gpus
    unwritten+=$age:$cpu:$mib${gpus:+:$gpus}$'\n' held=0 next=$((age + (age < 100 ? 5 : age / 20)))
    [ "$age" -ge 20 ] || return
    printf %s "$unwritten" >>"$log/usage.$restart"
    unwritten=''
}

# Adds what was written to the figures, as the last: a line that is cut off has all the others.
tell_use() {
    local lines=() IFS=,
    { mapfile -tn 400 lines <"$log/usage.$restart"; } 2>/dev/null
    [ ${#lines[@]} = 0 ] || figures+=("usage=${lines[*]}")
}
