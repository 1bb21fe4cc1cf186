# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154,SC2317  # read behind this file; assigned in front of it; reached through traps
# What a hook has running on every node while the payload does: one task a node, of which the first is the head. Two
# halves: the shell that waits for the payload starts, awaits and ends the tasks; a task starts a daemon and ends it.
# A hook NAME that stands behind this file defines, besides its own functions:
#   NAME_setup  on each node: enters the payload's environment
#   NAME_node   on each node: starts the daemon with nodes_start_daemon, and publishes what others wait for
#   NAME_keep   on each node, where the payload has failed: copies logs from $nodes_tmp to $nodes_kept
#   NAME_clean  on each node: takes away what lies outside of $nodes_tmp
# Tasks end when the pipe that the shell holds is closed, which the kernel does when that dies.
nodes_of=
nodes_process=
nodes_watcher=
nodes_lifeline=
nodes_is_stopping=
nodes_is_explained=
nodes_tmp_most=12
nodes_same_tmp=
nodes_lost=0
# How long a task's work has to end on TERM before it is killed, in seconds; srun's own time comes on top. If there is a
# process of that name, it alone gets TERM, and for the others nobody waits.
nodes_grace=5
nodes_core=
# How long a task that is told to end, which Slurm does when it ends a job, still waits for the pipe's end, in seconds.
nodes_patience=0

# ---- both halves ---------------------------------------------------------------------------------------------------

# nodes_publish FILE TEXT: one line, which others see whole or not at all.
nodes_publish() {
    local new=$nodes_dir/.$1.${nodes_id:-shell}
    printf '%s\n' "$2" >"$new" && mv -fT -- "$new" "$nodes_dir/$1"
}

# nodes_read FILE: sets nodes_text. All files are there from the beginning, empty: that there is none, an NFS client
# believes for a minute; what has been closed by another, it sees when it opens it.
nodes_read() { { IFS= read -r nodes_text <"$nodes_dir/$1"; } 2>/dev/null; }

# nodes_pause SECONDS: a task learns here that it has to end.
nodes_pause() {
    local REPLY status
    pause_on "$1" "$nodes_lifeline"
    status=$?
    [ "$status" -le 128 ] || return 0
    [ -z "$REPLY" ] || nodes_word=$REPLY
    [ "$status" = 0 ] || nodes_is_stopping=yes
}

# nodes_await FILE SECONDS: sets nodes_text. Else 1: not in time; 2: a node has failed, which nodes_text tells; 3: what
# has to bring it has ended.
nodes_await() {
    local until=$((SECONDS + $2))
    until nodes_read "$1"; do
        ! nodes_read failed || return 2
        if [ -n "$nodes_process" ] && ! kill -0 "$nodes_process" 2>/dev/null; then
            nodes_pause 0.2
            if nodes_read "$1"; then return 0; fi
            ! nodes_read failed || return 2
            return 3
        fi
        [ "$SECONDS" -lt "$until" ] || return 1
        nodes_pause 0.1
    done
}

# The variable is of bash 5, and has the decimal sign of the locale.
nodes_look_at_clock() {
    nodes_now=${EPOCHREALTIME/[!0-9]/.}
    nodes_now=${nodes_now:-$(date +%s.%N)}
}

# nodes_log LEVEL TEXT: into the log of the run, as messages of Pipes come.
nodes_log() {
    local text=${2//\\/\\\\}
    text=${text//\"/\\\"}
    printf '{"__dagster_pipes_version": "0.1", "method": "log", "params": {"message": "%s", "level": "%s"}}\n' \
        "${text//[[:cntrl:]]/ }" "$1" >>"$nodes_messages"
}

# ---- the shell that waits for the payload --------------------------------------------------------------------------

# nodes_begin NAME IS_HERE: the nodes, and a directory that they share. A job that is requeued has another: it reads
# nothing that the former one has left. IS_HERE: this machine is the only node.
nodes_begin() {
    local id job=here
    nodes_of=$1 nodes_names=("$(uname -n)") nodes_messages=$place/log/messages
    if [ -z "$2" ]; then
        job=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
        nodes_messages=$place/log/messages.${SLURM_RESTART_COUNT:-0}
        nodes_names=("$SLURMD_NODENAME")
        [ "${SLURM_JOB_NUM_NODES:-1}" = 1 ] || mapfile -t nodes_names < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    fi
    nodes_is_here=$2 nodes_count=${#nodes_names[@]} nodes_dir=$place/$1.$job
    nodes_token=$nodes_dir/token nodes_kept=$nodes_dir/logs
    (umask 077 && mkdir -- "$nodes_dir") || return
    : >"$nodes_dir/failed"
    for ((id = 0; id < nodes_count; id++)); do : >"$nodes_dir/node.$id" && : >"$nodes_dir/end.$id"; done
}

# nodes_have FILE ...: what tasks will publish.
nodes_have() { for nodes_text in "$@"; do : >"$nodes_dir/$nodes_text" || return; done; }

# A word that only this user can read, in $nodes_token.
nodes_make_token() { (umask 077 && od -An -N 32 -tx1 /dev/urandom | tr -d ' \n' >"$nodes_token"); }

# The smallest number of CPUs that the job has on one of its nodes, as in `8(x3),4`.
nodes_cpus() {
    local each least=
    for each in ${SLURM_JOB_CPUS_PER_NODE//,/ }; do
        each=${each%(*}
        [ -n "$least" ] && [ "$least" -le "$each" ] || least=$each
    done
    printf '%s' "${least:-1}"
}

# Everything that a task needs is in one file: these functions, those of the hook, and their variables.
nodes_write_task() {
    {
        # shellcheck disable=SC2046  # names
        eval "declare -p place run_directory \${!nodes_@} \${!${nodes_of}_@}"
        declare -f
        printf 'nodes_task\n'
    } >"$nodes_dir/task.sh"
}

# Starts the tasks; their process group is their own. srun ends with 0 when a node is lost (22.05): ends are read.
nodes_start() {
    local start=()
    if [ "$nodes_count" -gt 1 ]; then
        start=(srun --nodes="$nodes_count" --ntasks="$nodes_count" --ntasks-per-node=1 --cpus-per-task="$(nodes_cpus)"
            --mem=0 --overlap --no-kill --kill-on-bad-exit=0 --mpi=none --cpu-bind=none --export=ALL --chdir=/
            --job-name="$nodes_of")
    fi
    nodes_write_task || return
    # Open at both ends; a task opens the reading one anew, and has no other.
    exec {nodes_lifeline}<> <(:) || return
    "${start[@]}" bash "$nodes_dir/task.sh" <"/dev/fd/$nodes_lifeline" {nodes_lifeline}>&- >"$nodes_dir/step" 2>&1 &
    nodes_process=$!
}

# nodes_last FILE: the last lines, for a message.
nodes_last() { tail -n 15 -- "$nodes_dir/$1" 2>/dev/null | cut -c 1-500 | sed 's/^/    /'; }

# nodes_explain STATUS WHAT: why nodes_await has returned that.
nodes_explain() {
    local id=${nodes_text%% *}
    nodes_is_explained=yes
    case $1 in
    2)
        say "$2: node ${nodes_names[id]}: ${nodes_text#* }"
        nodes_last "out.$id" >&2
        ;;
    3)
        say "$2: its step has ended"
        nodes_last step >&2
        ;;
    *)
        say "$2: not in time. Nodes that have begun: $(nodes_begun)"
        for ((id = 0; id < nodes_count; id++)); do
            nodes_read "node.$id" && continue
            say "node ${nodes_names[id]} has not begun"
        done
        nodes_last step >&2
        ;;
    esac
}

# nodes_await_ready WHAT SECONDS: until the first node has said that all are there; sets nodes_text. Else says why not.
# A task gives up in time, and names the node that is missing.
nodes_await_ready() {
    local status
    nodes_await ready $(($2 + 15))
    status=$?
    [ "$status" != 0 ] || return 0
    nodes_explain "$status" "$1 does not come up"
    return 74
}

# nodes_log_page WHAT ADDRESS MORE: how a page of the first node is opened. Names are those of the cluster: where the
# login node is called otherwise from outside, that name has to be put there.
nodes_log_page() {
    local port=${2##*:}
    if [ -n "$nodes_is_here" ]; then
        nodes_log INFO "$1: http://$2$3"
    else
        nodes_log INFO "$1: http://localhost:$port after \
ssh -N -L $port:$2 $(id -un)@${SLURM_SUBMIT_HOST:-LOGIN}$3"
    fi
}

nodes_begun() {
    local id names=
    for ((id = 0; id < nodes_count; id++)); do ! nodes_read "node.$id" || names="$names ${nodes_names[id]}"; done
    printf '%s' "${names:- none}"
}

# In the process that becomes the payload: the pipe is not its own.
nodes_enter() {
    nodes_publish payload "$BASHPID"
    exec {nodes_lifeline}>&-
}

# A node without power says nothing: what srun hears of the controller is passed on, each line once.
nodes_tell_lost() {
    local lines
    [ -s "$nodes_dir/step" ] || return 0
    mapfile -t lines < <(grep -a -e 'Node failure on ' -- "$nodes_dir/step")
    while [ "$nodes_lost" -lt ${#lines[@]} ]; do
        nodes_log WARNING "$nodes_of: ${lines[nodes_lost]}; the payload goes on"
        nodes_lost=$((nodes_lost + 1))
    done
}

# Without its head the payload would wait, for 40 s and more in Ray: it is ended. Another node is a warning.
nodes_watch() {
    local said='' never
    exec {never}<> <(:) {nodes_lifeline}>&-
    nodes_lifeline=$never
    while :; do
        nodes_pause 1
        if nodes_read end.0 || ! kill -0 "$nodes_process" 2>/dev/null; then break; fi
        nodes_tell_lost
        if ! nodes_read failed || [ "$nodes_text" = "$said" ]; then continue; fi
        said=$nodes_text
        nodes_log WARNING "$nodes_of: node ${nodes_names[${said%% *}]}: ${said#* }; the payload goes on"
    done
    nodes_end_payload
}

nodes_end_payload() {
    nodes_publish headless yes
    until nodes_read payload; do nodes_pause 0.2; done
    kill -TERM -- "-$nodes_text" 2>/dev/null
    nodes_pause 5
    kill -KILL -- "-$nodes_text" 2>/dev/null
}

nodes_guard() {
    nodes_have payload headless || return
    nodes_watch </dev/null >/dev/null 2>&1 &
    nodes_watcher=$!
    disown "$nodes_watcher"
}

# nodes_end: all tasks end now. They keep their logs unless the payload has succeeded. Sets `code` where it was not the
# payload that has ended it.
nodes_end() {
    local tries
    [ -n "$nodes_process" ] || return 0
    [ -z "$nodes_watcher" ] || kill -KILL -- "-$nodes_watcher" 2>/dev/null
    if [ "$code" != 0 ] && nodes_read headless; then code=74; fi
    [ "$code" != 0 ] || printf 'done\n' >&"$nodes_lifeline"
    exec {nodes_lifeline}>&-
    for ((tries = 0; tries < (nodes_grace + 10) * 10; tries++)); do
        kill -0 "$nodes_process" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL -- "-$nodes_process" 2>/dev/null
    { wait "$nodes_process"; } 2>/dev/null
    nodes_process=
    nodes_note_ends
    [ "$code" = 0 ] || [ ! -d "$nodes_kept" ] || say "$nodes_of: the logs of its nodes are in $nodes_kept"
}

# Only a task's own end line is proof of how it has ended. Sets `node_ends`, and says what was wrong, unless that was said.
nodes_note_ends() {
    local id name cause status peak cpu killed
    for ((id = 0; id < nodes_count; id++)); do
        name=${nodes_names[id]}
        if ! nodes_read "end.$id"; then
            node_ends+=("$name:lost:-:-:-")
            nodes_tell_loss "$id" "no end of it is known$(nodes_of_srun "$id")"
            continue
        fi
        read -r _ _ _ cause status peak cpu killed <<<"$nodes_text"
        node_ends+=("$name:$cause:$peak:$cpu:$killed")
        [ "$cause" = stopped ] || nodes_tell_loss "$id" "it has ended with status $status before the payload"
        [ "$killed" = 0 ] || nodes_tell_loss "$id" "processes killed there for want of memory: $killed"
    done
}

nodes_of_srun() {
    local line
    line=$(grep -m 1 -e "Node failure on .*${nodes_names[$1]}" -- "$nodes_dir/step") && printf ': %s' "$line"
}

# nodes_tell_loss ID WHAT
nodes_tell_loss() {
    [ -z "$nodes_is_explained" ] || return 0
    say "$nodes_of: node ${nodes_names[$1]}: $2"
    [ "$code" = 0 ] || nodes_last "out.$1" >&2
}

# What nobody reads again.
nodes_leave() {
    [ -n "$nodes_dir" ] || return 0
    if [ "$code" = 0 ]; then rm -rf -- "$nodes_dir"; else rm -f -- "$nodes_token"; fi
}

# ---- a node's task -------------------------------------------------------------------------------------------------

# Its status says that the reason is in `failed` already.
nodes_has_said=76

# The task's whole life: it sees to the work, which may hang wherever it is. Output goes into a file of its own: that of
# srun ends with srun, and last words are lost.
nodes_task() {
    nodes_id=0 nodes_word='' nodes_work='' nodes_tmp='' nodes_until=''
    [ "$nodes_count" = 1 ] || nodes_id=$SLURM_NODEID
    nodes_name=${nodes_names[nodes_id]}
    exec >>"$nodes_dir/out.$nodes_id" 2>&1 {nodes_lifeline}<&0 </dev/null
    trap nodes_hear TERM INT HUP
    trap nodes_finish EXIT
    # What the task starts carries this, and is found by it: sessions, groups and parents change.
    export DAGSTER_SLURM_NODE="$nodes_dir $nodes_id"
    nodes_make_tmp || exit
    # What others put into /tmp is taken away, too.
    export TMPDIR=$nodes_tmp
    set -m
    nodes_run_work {nodes_lifeline}<&- &
    nodes_work=$!
    set +m
    nodes_stay
}

# A signal, and again where there was one.
nodes_hear() {
    nodes_until=${nodes_until:-$((SECONDS + nodes_patience))}
    [ "$SECONDS" -lt "$nodes_until" ] || nodes_is_stopping=yes
}

# Until the work has ended, or is to end.
nodes_stay() {
    local looks=0
    nodes_find_group
    until [ -n "$nodes_is_stopping" ] || ! kill -0 "$nodes_work" 2>/dev/null; do
        nodes_pause 0.3
        [ -z "$nodes_until" ] || nodes_hear
        nodes_look
        ((looks = (looks + 1) % 15)) || nodes_tell_killed
    done
}

# In a process group of its own: the environment, what the hook does there, and its daemon's life. `wait` is no loop:
# nothing is trapped here.
nodes_run_work() {
    trap - EXIT TERM INT HUP
    exec {nodes_lifeline}<> <(:)
    "${nodes_of}_setup"
    { read_variables "$run_directory" "$place" && mkdir -p -- "$place/work" && cd -- "$place/work"; } || exit
    nodes_find_address || exit
    nodes_publish "node.$nodes_id" "$nodes_name $nodes_address"
    "${nodes_of}_node" || exit
    wait "$nodes_process"
    exit
}

# Slurm tells of that when the job has ended.
nodes_tell_killed() {
    local killed
    killed=$(nodes_killed)
    [ "$killed" != "${nodes_told:-0}" ] || return
    nodes_told=$killed
    nodes_publish failed "$nodes_id processes killed there for want of memory: $killed"
}

# nodes_fail TEXT: as the reason why this node has failed.
nodes_fail() {
    printf '%s\n' "$1"
    nodes_publish failed "$nodes_id $1"
    return "$nodes_has_said"
}

# Where others reach this node: by an interface or a command if the hook says so, else by its name. `hostname -i` may
# print two, and a name may be one of the loopback.
nodes_find_address() {
    local interface=${nodes_of}_interface command=${nodes_of}_address_command
    if [ -n "${!command}" ]; then
        nodes_address=$(bash -c "${!command}")
    elif [ -n "${!interface}" ]; then
        nodes_address=$(ip -4 -o addr show dev "${!interface}" | awk '{ split($4, a, "/"); print a[1]; exit }')
    elif [ -n "$nodes_is_here" ]; then
        nodes_address=127.0.0.1
    else
        nodes_address=$(getent ahostsv4 "$nodes_name" | awk '$1 !~ /^127\./ { print $1; exit }')
        nodes_address=${nodes_address:-$(hostname -I | awk '{ print $1 }')}
    fi
    [ -n "$nodes_address" ] || nodes_fail "it has no address${!interface:+ on the interface ${!interface}}"
}

# A directory of the node, the user's own, of a name that the hook may have chosen for all nodes. Of at most 26 bytes,
# unless the hook has more: with what Ray adds, a socket's path has 107.
nodes_make_tmp() {
    local base=${TMPDIR:-/tmp}
    nodes_tmp=$nodes_same_tmp
    if [ -n "$nodes_tmp" ]; then
        # It is there on the node that has chosen it. Elsewhere somebody may have read its name, and been faster.
        mkdir -m 700 -- "$nodes_tmp" 2>/dev/null || { [ -d "$nodes_tmp" ] && [ -O "$nodes_tmp" ] && [ ! -L "$nodes_tmp" ]; } ||
            nodes_fail "$nodes_tmp cannot be made, or is somebody else's"
        return
    fi
    [ ${#base} -le "$nodes_tmp_most" ] && [ -w "$base" ] || base=/tmp
    nodes_tmp=$(mktemp -d -- "$base/${nodes_of:0:5}${SLURM_JOB_ID:-0}.XXXXXX") ||
        nodes_fail "there can be no directory in $base"
}

# nodes_start_daemon COMMAND ...: whose end is the node's.
nodes_start_daemon() {
    "$@" </dev/null {nodes_lifeline}<&- &
    nodes_process=$!
}

# nodes_bring_up TEXT SECONDS COMMAND ...: while the daemon lives, waits for a command which ends when all nodes are
# there: TEXT and what it prints are `ready`. Where it fails, it prints the addresses of those that are.
nodes_bring_up() {
    local waiting said
    "${@:3}" >"$nodes_tmp/ready" 2>"$nodes_tmp/waited" </dev/null {nodes_lifeline}<&- &
    waiting=$!
    while kill -0 "$waiting" 2>/dev/null; do
        kill -0 "$nodes_process" 2>/dev/null || return 0
        nodes_pause 0.1
    done
    read -r said <"$nodes_tmp/ready"
    if wait "$waiting"; then
        nodes_publish ready "$1 $said"
        return
    fi
    tail -n 5 -- "$nodes_tmp/waited"
    nodes_publish failed "$(nodes_missing "$said") in $2 s"
    return "$nodes_has_said"
}

# nodes_seconds_left SECONDS: of so many since this task has begun, one at least: the batch script counts from then too, and
# would give up before who knows the node that is missing.
nodes_seconds_left() { printf '%s' $(($1 > SECONDS ? $1 - SECONDS : 1)); }

# nodes_missing ADDRESSES: the number of the first node that is not among them, and what is known of it.
nodes_missing() {
    local id
    for ((id = 0; id < nodes_count; id++)); do
        [ -n "$1" ] || break
        if ! nodes_read "node.$id"; then
            printf '%s its task has not begun' "$id"
            return
        fi
        [[ " $1 " == *" ${nodes_text#* } "* ]] || { printf '%s it has not joined the cluster' "$id"; return; }
    done
    printf '0 it does not answer'
}

# nodes_mib: the memory that the job has on this node: the least of what Slurm says, its control group and the machine.
nodes_mib() {
    local least asked=${SLURM_MEM_PER_NODE:-0} limit
    least=$(($(awk '/^MemTotal/ { print $2 }' /proc/meminfo) / 1024))
    [ -n "$nodes_is_here" ] && asked=0
    [ -n "$nodes_is_here" ] || [ -z "$SLURM_MEM_PER_CPU" ] || asked=$((SLURM_MEM_PER_CPU * $(nodes_cpus)))
    [ "$asked" = 0 ] || [ "$asked" -ge "$least" ] || least=$asked
    nodes_find_group
    limit=$(cat -- "$memory_group/memory.max" "$memory_group/memory.limit_in_bytes" 2>/dev/null | head -n 1)
    # `max`, or a number that is larger than any machine's.
    case $limit in '' | *[!0-9]*) limit=$((1 << 60)) ;; esac
    [ $((limit >> 20)) -ge "$least" ] || least=$((limit >> 20))
    printf '%s' "$least"
}

# Sets `nodes_left`: what this task has started and still runs, wherever it went to.
nodes_find_left() {
    local file pid
    nodes_left=()
    while IFS= read -r file; do
        pid=${file#/proc/}
        pid=${pid%/environ}
        [ "$pid" = "$$" ] || ! kill -0 "$pid" 2>/dev/null || nodes_left+=("$pid")
    done < <(grep -lszxF -- "DAGSTER_SLURM_NODE=$nodes_dir $nodes_id" /proc/[0-9]*/environ)
}

# Sets `nodes_ending`: what of the work is to end by itself, a process or the group.
nodes_find_ending() {
    local file
    nodes_ending=-$nodes_work
    [ -n "$nodes_core" ] || return 0
    file=$(grep -lsE "^[0-9]+ \\($nodes_core\\) [^ZX] [0-9]+ $nodes_work " /proc/[0-9]*/stat)
    file=${file%%/stat*}
    nodes_ending=${file#/proc/}
    nodes_ending=${nodes_ending:--$nodes_work}
}

# A process that its parent has not yet missed has ended, and without the first node what takes its leave waits for ever.
nodes_is_ending() {
    local stat=
    # In a trap, `return` alone is the status before it.
    kill -0 -- "$nodes_ending" 2>/dev/null || return 1
    [ "${nodes_ending#-}" = "$nodes_ending" ] || return 0
    { read -rd '' stat <"/proc/$nodes_ending/stat"; } 2>/dev/null
    case ${stat##*) } in [ZX]*) return 1 ;; esac
    ! nodes_read end.0
}

# The work first: a daemon ends its own. Then what is left.
nodes_end_work() {
    local tries
    [ -z "$nodes_work" ] || nodes_find_ending
    if [ -n "$nodes_work" ] && kill -TERM -- "$nodes_ending" 2>/dev/null; then
        for ((tries = 0; tries < nodes_grace * 20; tries++)); do
            nodes_is_ending || break
            sleep 0.05
        done
    fi
    for tries in 1 2 3 4 5 6 7 8 9 10; do
        nodes_find_left
        [ ${#nodes_left[@]} -gt 0 ] || break
        kill -KILL "${nodes_left[@]}" 2>/dev/null
        sleep 0.05
    done
}

# However the task ends. One that was not to end has failed, and says so before it takes its time.
nodes_finish() {
    local status=$? cause=stopped
    trap '' TERM INT HUP
    trap - EXIT
    nodes_pause 0.01
    if [ -z "$nodes_is_stopping" ]; then
        cause=died
        if [ -n "$nodes_work" ]; then
            { wait "$nodes_work"; } 2>/dev/null
            status=$?
        fi
        [ "$status" = "$nodes_has_said" ] || nodes_publish failed "$nodes_id it has ended with status $status"
    fi
    nodes_end_work
    [ -z "$nodes_tmp" ] || [ "$nodes_word" = "done" ] || nodes_keep
    ! declare -F "${nodes_of}_clean" >/dev/null || "${nodes_of}_clean"
    [ -z "$nodes_tmp" ] || rm -rf -- "$nodes_tmp"
    nodes_look_at_clock
    nodes_publish "end.$nodes_id" "ended $nodes_name $nodes_now $cause $status $(nodes_usage)"
    exit 0
}

nodes_keep() {
    local kept=$nodes_kept/$nodes_name
    declare -F "${nodes_of}_keep" >/dev/null || return
    mkdir -p -- "$kept" && "${nodes_of}_keep" "$kept"
}

# nodes_copy_logs FROM TO: of each file that has something its last MiB.
nodes_copy_logs() {
    local file
    for file in "$1"/*; do
        if [ -f "$file" ] && [ -s "$file" ]; then tail -c 1048576 -- "$file" >"$2/${file##*/}"; fi
    done
}
