# shellcheck shell=bash
# shellcheck disable=SC2154  # assigned in front of this file
# The payload of a session's allocation: starts what is asked for in its mailbox (mail.sh), as soon as that fits, first come,
# first served, and ends when nothing runs, nothing waits, and nobody has written a line for a while. In front of it stand:
#   allocation=DIRECTORY  most=STEPS_AT_ONCE  idle_seconds=N  limit_seconds=N (0: none)  relay_seconds=N (0: none)  gpus_per_node=N
# A request is "run NUMBER ATTEMPT GENERATION NAME COUNT MOST NODES CPUS MEM_MIB GPUS SECONDS .": the batch script of ATTEMPT, for
# each of COUNT elements, MOST at once; COUNT 0 is the attempt as a whole, MOST 0 no limit. CPUs, memory and GPUs are of each
# node; memory 0 is the part that goes with the CPUs; SECONDS 0 no limit; a word more is the cluster that it works beside
# (clusters.sh, which stands in front, too). Others are "cancel NUMBER .", "end .", "lease WHO .", "broken CLUSTER .", and
# "next JOB .", which has been queued to follow this allocation. "relay ." is written here, `relay_seconds` before the walltime:
# who renews a lease then queues it.
# Here and in what is called nothing waits but `pause`, and with bash 5.2 nothing forks while nothing happens.
set -f
runs=${allocation%/runs/*}/runs
requests=()                     # by number: the other words
waiting=()                      # "NUMBER ELEMENT", the first first
pids=()                         # of the srun of each step that runs
declare -A step nodes_of status_of doubted_until cancelled killed running_of tries_of
taken=0 heard=$SECONDS ending='' closed='' told='' drained='' relayed='' next='' not_before=0 kill_seconds=30 most_tries=60
soon=0                          # how many looks are to come sooner, since something has begun or ended

# Held open at both ends, it has never anything to read.
open_pipe 3
pause() { pause_on "$1" 3; }
note_signal() {
    told=TERM
}
trap note_signal TERM INT HUP
trap '' USR1 USR2

say() { printf '%s\n' "$*"; }

# ---- what there is --------------------------------------------------------------------------------------------------

names=() free_cpus=() free_mem=() free_gpus=() all_cpus=() all_mem=()
look_at_nodes() {
    local part count times node
    set +f
    mapfile -t names < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    set -f
    for part in ${SLURM_JOB_CPUS_PER_NODE//,/ }; do
        count=${part%%(*} times=1
        case $part in *'(x'*) times=${part#*(x} times=${times%)} ;; esac
        for ((; times > 0; times--)); do all_cpus+=("$count"); done
    done
    for node in "${!names[@]}"; do
        all_cpus[node]=${all_cpus[node]:-1}
        all_mem[node]=0
        if [ "${SLURM_MEM_PER_NODE:-0}" -gt 0 ]; then
            all_mem[node]=$SLURM_MEM_PER_NODE
        elif [ "${SLURM_MEM_PER_CPU:-0}" -gt 0 ]; then
            all_mem[node]=$((SLURM_MEM_PER_CPU * all_cpus[node]))
        fi
        free_cpus[node]=${all_cpus[node]} free_mem[node]=${all_mem[node]} free_gpus[node]=$gpus_per_node
    done
} 2>/dev/null

# Slurm begins so many steps in a job and no more. Those that payloads begin count as well, for which a quarter is left.
most_steps=30000 begun=0
look_at_the_limit() {
    local limit
    limit=$(scontrol show config | grep -m 1 '^MaxStepCount ') || return
    limit=${limit##*[!0-9]}
    [ "$limit" -lt 2 ] || most_steps=$((limit * 3 / 4))
} 2>/dev/null

# The sizes of the allocation would be those of each srun.
forget_sizes() {
    local name
    for name in ${!SLURM_MEM_*} ${!SLURM_CPUS_PER_*} ${!SLURM_NTASKS*} ${!SLURM_GPUS*} ${!SLURM_TRES_PER_*} \
        SLURM_NPROCS SLURM_TASKS_PER_NODE SLURM_EXACT SLURM_OVERLAP SLURM_EXCLUSIVE SLURM_DISTRIBUTION \
        SLURM_THREADS_PER_CORE SLURM_TIMELIMIT; do
        case $name in SLURM_GPUS_ON_NODE) ;; *) unset -v "$name" ;; esac
    done
}

# ---- the mailbox ----------------------------------------------------------------------------------------------------

# It stays open where it was read to. On NFS its end is looked for anew when it is opened once more, by anyone; one that is
# not the same any more, as after a server was replaced, is read from its beginning.
requests_file=$allocation/mail/requests box='' part=''
take_mail() {
    local line=''
    : <"$requests_file" || return
    if [ -z "$box" ] || ! [ "/dev/fd/$box" -ef "$requests_file" ]; then
        exec {box}<"$requests_file" || return
        part=''
        for ((line = 0; line < taken; line++)); do IFS= read -r -u "$box" || return; done
    fi
    while IFS= read -r -u "$box" line; do
        taken=$((taken + 1))
        # shellcheck disable=SC2086  # several words
        take $part$line
        part=''
    done
    # The rest of it comes later.
    part=$part$line
} 2>/dev/null

take() {
    local element
    # What was cut off was never answered for.
    if [ $# -lt 2 ] || [ "${!#}" != . ] || [ "$1" = relay ]; then return; fi
    heard=$SECONDS
    case $1 in
    run)
        [ $# = 13 ] || [ $# = 14 ] || return
        requests[$2]="${*:3:$#-3}"
        [ "$6" -gt 0 ] || waiting+=("$2 -")
        for ((element = 0; element < $6; element++)); do waiting+=("$2 $element"); done
        ;;
    cancel) cancelled[$2]=yes ;;
    broken) note_broken "$2" ;;
    end) ending=yes ;;
    next) next=$2 ;;
    esac
}

# ---- one step -------------------------------------------------------------------------------------------------------

# describe NUMBER ELEMENT: sets what is known of a step.
describe() {
    local below='' number=$1 element=$2
    # bash reads a here-string byte by byte.
    # shellcheck disable=SC2086  # several words
    set -- ${requests[number]}
    attempt=$1 generation=$2 name=$3 at_once=$5 nodes=$6 cpus=$7 mem=$8 gpus=$9 seconds=${10} cluster=${11}
    id=$SLURM_JOB_ID.r$number
    if [ "$element" != - ]; then id=${SLURM_JOB_ID}_$element.r$number below=/elements/$element; fi
    log=$runs/$attempt$below/log
    # All memory of a node goes with all of its CPUs.
    if [ "$mem" = 0 ]; then mem=$((all_mem[0] * cpus / all_cpus[0])); fi
    # Slurm holds it to its GPUs on the first node alone; on the others it could take those of another.
    if [ "$nodes" -gt 1 ] && [ "$gpus" -gt 0 ] && [ "$gpus" -lt "$gpus_per_node" ]; then gpus=$gpus_per_node; fi
}

# over STATUS: the step that is described has left the queue; without a line of its start, it will never begin.
over() { printf 'over %s 0 %s %s\n' "$id" "$1" "${EPOCHREALTIME/[!0-9]/.}" >>"$log/status"; } 2>/dev/null

# Sets `found` to nodes with room for the step that is described; fails where there are too few.
find_room() {
    local node
    found=()
    for node in ${within:-"${!names[@]}"}; do
        [ "${free_cpus[node]}" -ge "$cpus" ] || continue
        [ "${all_mem[node]}" = 0 ] || [ "${free_mem[node]}" -ge "$mem" ] || continue
        [ "${free_gpus[node]}" -ge "$gpus" ] || continue
        found+=("$node")
        [ ${#found[@]} -lt "$nodes" ] || return 0
    done
    return 1
}

# Whether it would, were nothing else running: what a site gives may be less than was asked for.
could_fit() {
    local node count=0
    for node in "${!names[@]}"; do
        [ "${all_cpus[node]}" -ge "$cpus" ] || continue
        [ "${all_mem[node]}" = 0 ] || [ "${all_mem[node]}" -ge "$mem" ] || continue
        count=$((count + 1))
    done
    [ "$count" -ge "$nodes" ] && [ "$gpus" -le "$gpus_per_node" ]
}

# charge SIGN: takes the share of the step that is described from the nodes in `found`, or gives it back.
charge() {
    local node
    for node in "${found[@]}"; do
        free_cpus[node]=$((free_cpus[node] + $1 * cpus))
        free_mem[node]=$((free_mem[node] + $1 * mem))
        free_gpus[node]=$((free_gpus[node] + $1 * gpus))
    done
}

# start NUMBER ELEMENT: on the first of the nodes that were found. What the batch script learns of its sizes are those of the step.
# Output goes to files within the task: what comes through srun is lost with it.
start() {
    local words list='' node element=''
    for node in "${found[@]}"; do list=$list,${names[node]}; done
    list=${list#,}
    [ "$2" = - ] || element=$2
    words=(srun --exact --nodes=1 --ntasks=1 "--cpus-per-task=$cpus" "--nodelist=${names[found[0]]}")
    words+=("--job-name=$name" --input=none --kill-on-bad-exit=0)
    [ "$mem" = 0 ] || words+=("--mem=${mem}M")
    [ "$seconds" = 0 ] || words+=("--time=$((seconds / 60)):$((seconds % 60))")
    if [ "$gpus" -gt 0 ]; then words+=("--gres=gpu:$gpus"); elif [ "$gpus_per_node" -gt 0 ]; then words+=(--gres=none); fi
    # Its batch script is read by the shell of the task: `env`, and one bash more, would cost 2 ms each.
    # shellcheck disable=SC2016  # that shell expands it
    words+=(bash -c 'exec >>"$1/slurm.log" 2>&1; cd -- "$2/work"; export "${@:6}"; . "$2/job.sh" "${@:3:3}"' step)
    words+=("$log" "$runs/$attempt" "$generation" "$SLURM_JOB_ID.r$1" "$element")
    words+=("SLURM_JOB_NUM_NODES=$nodes" "SLURM_NNODES=$nodes" "SLURM_JOB_NODELIST=$list" "SLURM_NODELIST=$list")
    if [ "$nodes" = 1 ]; then words+=("SLURM_JOB_CPUS_PER_NODE=$cpus"); else words+=("SLURM_JOB_CPUS_PER_NODE=$cpus(x$nodes)"); fi
    [ "$mem" = 0 ] || words+=("SLURM_MEM_PER_NODE=$mem")
    [ -z "$cluster" ] || words+=("DAGSTER_SLURM_CLUSTER=$(cluster_directory "$cluster")" "DAGSTER_SLURM_CLUSTER_USES=${served[$cluster]}")
    # What asks for steps, whatever it is, gets them beside this one, on its nodes.
    words+=("PATH=$allocation/work/bin:$PATH")
    "${words[@]}" </dev/null >/dev/null 2>>"$log/slurm.log" &
    pids+=("$!") begun=$((begun + 1))
    step[$!]="$1 $2" nodes_of[$!]="${found[*]}"
    running_of[$1]=$((${running_of[$1]:-0} + 1))
    note_user "$!"
    charge -1
    soon=50
} 2>/dev/null

# ---- all of them ----------------------------------------------------------------------------------------------------

start_what_fits() {
    local at within
    for at in "${!waiting[@]}"; do
        # Room is made for those first.
        [ ${#renewing[@]} = 0 ] || break
        # shellcheck disable=SC2086  # two words
        describe ${waiting[at]}
        if is_cancelled "${waiting[at]}"; then
            over 143
            unset -v 'waiting[at]'
            continue
        fi
        [ "$at_once" = 0 ] || [ "${running_of[${waiting[at]% *}]:-0}" -lt "$at_once" ] || continue
        [ $((${#pids[@]} - kept)) -lt "$most" ] || break
        if [ "$begun" -ge "$most_steps" ]; then
            give_back "$begun steps have begun, and Slurm begins only so many in a job"
            return
        fi
        if ! fits_in_time; then
            give_back 'its time limit does not fit into the walltime that is left'
            return
        fi
        if ! could_fit || ! cluster_could_fit; then
            say "a step asks for $cpus CPUs, $mem MiB and $gpus GPUs on each of $nodes nodes" >>"$log/slurm.log"
            over 78
            unset -v 'waiting[at]'
            continue
        fi
        [ "$SECONDS" -ge "$not_before" ] || break
        # shellcheck disable=SC2086
        if ! stand_by ${waiting[at]} || ! find_room; then
            make_room
            break
        fi
        # shellcheck disable=SC2086
        start ${waiting[at]}
        unset -v 'waiting[at]'
    done
}

# Slurm may have given less time than was asked for (--time-min), and says so from 23.02 on.
look_at_the_clock() {
    local rest=$((${SLURM_JOB_END_TIME:-0} - ${EPOCHSECONDS:-0}))
    [ -n "$SLURM_JOB_END_TIME" ] && [ "$rest" -gt 0 ] || return
    if [ "$limit_seconds" = 0 ] || [ "$rest" -lt "$limit_seconds" ]; then limit_seconds=$((SECONDS + rest)); fi
}

# Asked for once; what cannot be written now, at the next look.
ask_for_relay() {
    [ -z "$relayed$ending$closed" ] && [ "$relay_seconds" -gt 0 ] && [ "$limit_seconds" -gt 0 ] || return
    [ $((limit_seconds - SECONDS)) -le "$relay_seconds" ] || return
    sh "$allocation/work/mail.sh" "$allocation" say relay >/dev/null && relayed=yes
}

fits_in_time() { [ "$limit_seconds" = 0 ] || [ "$seconds" = 0 ] || [ $((SECONDS + seconds)) -le "$limit_seconds" ]; }

# give_back WHY: what waits goes on in the next allocation, and nothing more is taken here.
give_back() {
    local each
    say "$1: nothing more is begun here"
    drained=yes
    until close_mail; do take_mail; done
    for each in "${waiting[@]}"; do
        # shellcheck disable=SC2086  # two words
        describe $each
        over 75
    done
    waiting=()
}

# Fails where there is more to be read. What cannot be written to any more is closed.
close_mail() {
    sh "$allocation/work/mail.sh" "$allocation" close "$taken"
    [ $? != 75 ] || return
    closed=yes
}

# collect: of each step whose srun has ended.
collect() {
    local at
    for at in "${!pids[@]}"; do
        has_ended "${pids[at]}" || continue
        finish_step "${pids[at]}"
        unset -v 'pids[at]'
    done
}

# has_ended PID: whether srun has, and whether that is the end of the step alone. Who ends the allocation ends its steps first: their
# ends are then the allocation's, which is known a moment later.
has_ended() {
    if [ -z "${status_of[$1]}" ]; then
        ! kill -0 "$1" 2>/dev/null || return
        wait "$1"
        status_of[$1]=$?
        # shellcheck disable=SC2086  # two words
        describe ${step[$1]}
        read_marks
        case $last in 'end '*' told='* | 'start '*)
            if [ "${status_of[$1]}" != 0 ] && ! is_cancelled "${step[$1]}"; then doubted_until[$1]=$((SECONDS + 2)); fi
            ;;
        esac
    fi
    [ -n "$told" ] || [ "$SECONDS" -ge "${doubted_until[$1]:-0}" ]
}

is_cancelled() { [ -n "${cancelled[${1% *}]}" ]; }

finish_step() {
    local status=${status_of[$1]} of=${step[$1]}
    # shellcheck disable=SC2086  # two words
    describe $of
    # shellcheck disable=SC2206  # numbers
    found=(${nodes_of[$1]})
    charge 1
    soon=50
    running_of[${of% *}]=$((${running_of[${of% *}]} - 1))
    unset -v "step[$1]" "nodes_of[$1]" "status_of[$1]" "doubted_until[$1]" "killed[$1]" "used_by[$1]"
    if is_cluster "$of"; then finish_cluster "$status" "${of% *}"; else heard=$SECONDS; fi
    [ -z "$told" ] || return
    read_marks
    if [ "$status" != 0 ] && [ -z "$last" ] && ! is_cluster "$of" && ! is_cancelled "$of" && [ "${tries_of[$of]:-0}" -lt "$most_tries" ]; then
        # srun could not begin it, as while the controller is away.
        tries_of[$of]=$((${tries_of[$of]:-0} + 1))
        waiting=("$of" "${waiting[@]}") not_before=$((SECONDS + 5))
    else
        over "$status"
    fi
}

# Sets `last` to the last line about the step that is described, without its id, and `number` to Slurm's number of it.
read_marks() {
    local line lines=()
    last='' number=''
    mapfile lines <"$log/status"
    for line in "${lines[@]}"; do
        # The rest of it comes later.
        case $line in *$'\n') ;; *) continue ;; esac
        # shellcheck disable=SC2086  # several words
        set -- $line
        [ "$2" = "$id" ] || continue
        last="$1 ${*:3}"
        if [ "$1" = start ]; then number=$7; fi
    done
} 2>/dev/null

# What is to be cancelled gets TERM, and KILL after as long as Slurm would wait.
cancel_steps() {
    local pid
    [ ${#cancelled[@]} -gt 0 ] || return 0
    for pid in "${pids[@]}"; do
        is_cancelled "${step[$pid]}" || continue
        # shellcheck disable=SC2086  # two words
        describe ${step[$pid]}
        read_marks
        [ -n "$number" ] || continue
        if [ -z "${killed[$pid]}" ]; then
            killed[$pid]=$((SECONDS + kill_seconds))
            scancel --signal=TERM "$SLURM_JOB_ID.$number"
        elif [ "$SECONDS" -ge "${killed[$pid]}" ]; then
            killed[$pid]=$((SECONDS + kill_seconds))
            scancel "$SLURM_JOB_ID.$number"
        fi
    done
}

is_idle() {
    has_no_step && [ ${#waiting[@]} = 0 ] || return
    [ -n "$ending$closed" ] || [ $((SECONDS - heard)) -ge "$idle_seconds" ] || return
    end_clusters
    [ "$kept" = 0 ]
}

# Steps that are short come many at once, and each has room when another has ended.
pause_between_looks() {
    if [ "$soon" -gt 0 ]; then
        soon=$((soon - 1))
        pause 0.02
    else
        pause 0.1
    fi
}

has_no_step() { [ ${#pids[@]} = "$kept" ]; }

# Who ends since nobody needs it has no successor. That it has steps by now is possible: they go on in another one.
give_up_next() {
    [ -z "$next" ] || [ -n "$drained" ] || scancel --state=PENDING "$next"
}

look_at_nodes
look_at_the_limit
look_at_the_clock
forget_sizes
say "The session has ${names[*]}"
while :; do
    take_mail
    collect
    if [ $((kept + ${#renewing[@]})) -gt 0 ]; then tend_clusters; fi
    cancel_steps
    if [ -n "$told" ]; then
        [ -n "$closed" ] || give_back 'The allocation is to end'
        ! has_no_step || end_clusters
        [ ${#pids[@]} -gt 0 ] || exit 143
    elif is_idle && { [ -n "$closed" ] || close_mail; }; then
        give_up_next
        exit 0
    else
        ask_for_relay
        start_what_fits
    fi
    pause_between_looks
done
