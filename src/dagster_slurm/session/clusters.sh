# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read, and assigned, in dispatch.sh, which this file stands in front of
# Clusters that a session keeps for many steps. A request whose last word is "KEY:NODES:CPUS:MEM_MIB:GPUS" has in its attempt
# the file `cluster.sh`, the batch script of that cluster: a step like others, which is started before the first step that
# asks for it, and stays. It ends when nothing has used it for as long as the session may be idle, when the first that waits needs its
# room, and with the session. Steps that use it run on its first node, beside it. One that finds it broken says
# "broken CLUSTER", and waits for another (launchers/kept.sh).
kept=0                          # how many clusters run
clusters=0                      # how many there were
renewing=()                     # those that were found broken and are to be followed
declare -A cluster_of           # by key: the newest that takes steps
declare -A shapes               # by key: nodes, CPUs, MiB and GPUs
declare -A pid_of number_of key_of served used_since used_by broken former_of ending_until
# By cluster: its srun while that runs, the number of its request, its key, how many steps it has served, when it was last used, and how often it was
# found broken; by key, why the former one has ended; by srun of a step, the cluster it uses.

cluster_directory() { printf '%s' "$allocation/clusters/$1"; }

# stand_by NUMBER ELEMENT: for the step that is described sets `cluster` to the one that it asks for, which is started if need
# be, and `within` to the node that it has to be on. Fails where there is no room for a new one.
stand_by() {
    local key=${cluster%%:*} shape=${cluster#*:}
    within=
    [ -n "$cluster" ] || return 0
    shapes[$key]=${shape//:/ }
    if [ -z "${cluster_of[$key]}" ]; then
        start_cluster "$key" "$runs/$attempt/cluster.sh" || return
        # shellcheck disable=SC2086  # two words
        describe "$1" "$2"
    fi
    cluster=${cluster_of[$key]}
    within=${nodes_of[${pid_of[$cluster]}]%% *}
}

# start_cluster KEY SCRIPT: fails where there is no room. The step that was described is it no more.
start_cluster() {
    local number=$((1000000 + clusters + 1)) name_of=$1.$((clusters + 1)) directory within=''
    directory=$(cluster_directory "$name_of")
    requests[number]="${allocation##*/runs/}/clusters/$name_of 0 $1 0 0 ${shapes[$1]} 0"
    describe "$number" -
    find_room || return
    clusters=$((clusters + 1))
    (umask 077 && mkdir -p -- "$directory/work" "$directory/log" "$directory/claim/0" && cd -- "$directory" &&
        cp -- "$2" job.sh && cp -- "$allocation/work/keep.sh" work/ &&
        : >env.sh && : >ready && : >end && : >next && : >log/status && printf '%s' "${former_of[$1]:+${former_of[$1]}$'\n'}" >former)
    # shellcheck disable=SC2181  # of the subshell
    if [ $? != 0 ]; then
        say "$directory cannot be made"
        not_before=$((SECONDS + 5))
        return 1
    fi
    unset -v "former_of[$1]"
    start "$number" -
    kept=$((kept + 1))
    pid_of[$name_of]=${pids[-1]} number_of[$name_of]=$number key_of[$name_of]=$1 served[$name_of]=0 used_since[$name_of]=$SECONDS
    cluster_of[$1]=$name_of
}

is_cluster() { [ "${1%% *}" -gt 1000000 ]; }

# note_user PID: the step that is described uses the cluster.
note_user() {
    [ -n "$cluster" ] || return
    used_by[$1]=$cluster
    served[$cluster]=$((${served[$cluster]} + 1))
}

# users CLUSTER: sets `found_users` to how many steps use it.
count_users() {
    local each
    found_users=0
    for each in "${used_by[@]}"; do [ "$each" != "$1" ] || found_users=$((found_users + 1)); done
}

# end_cluster CLUSTER: it takes no more steps, and ends by itself; if it has not in a minute, it is cancelled.
end_cluster() {
    unset -v "cluster_of[${key_of[$1]}]"
    [ -z "${ending_until[$1]}" ] || return
    ending_until[$1]=$((SECONDS + 60))
    printf 'yes\n' >"$(cluster_directory "$1")/end"
} 2>/dev/null

end_clusters() {
    local each
    for each in "${!pid_of[@]}"; do end_cluster "$each"; done
}

# Whether the cluster that the step described asks for could ever run with the step beside it.
cluster_could_fit() {
    local more_nodes more_cpus more_mem more_gpus
    [ -n "$cluster" ] || return 0
    IFS=: read -r _ more_nodes more_cpus more_mem more_gpus <<<"$cluster"
    if [ "$more_mem" = 0 ]; then more_mem=$((all_mem[0] * more_cpus / all_cpus[0])); fi
    local nodes=$more_nodes cpus=$((cpus + more_cpus)) mem=$((mem + more_mem)) gpus=$((gpus + more_gpus))
    could_fit
}

# make_room: of the clusters that nothing uses, the one that has been unused the longest ends, unless one does already. That which
# the step described asks for is to stay.
make_room() {
    local each oldest=''
    [ ${#ending_until[@]} = 0 ] || return
    for each in "${cluster_of[@]}"; do
        count_users "$each"
        if [ "$found_users" -gt 0 ] || [ "$each" = "$cluster" ]; then continue; fi
        if [ -z "$oldest" ] || [ "${used_since[$each]}" -lt "${used_since[$oldest]}" ]; then oldest=$each; fi
    done
    [ -z "$oldest" ] || end_cluster "$oldest"
}

# note_broken CLUSTER: others may use it still, which have not found it so.
note_broken() {
    [ -n "${key_of[$1]}" ] || return
    broken[$1]=$((${broken[$1]:-0} + 1))
    if [ "${cluster_of[${key_of[$1]}]}" = "$1" ]; then unset -v "cluster_of[${key_of[$1]}]"; fi
    renewing+=("$1")
}

# finish_cluster STATUS NUMBER: its srun has ended.
finish_cluster() {
    local each key
    for each in "${!pid_of[@]}"; do
        [ "$2" = "${number_of[$each]}" ] || continue
        key=${key_of[$each]}
        unset -v "pid_of[$each]" "ending_until[$each]"
        kept=$((kept - 1))
        if [ "${cluster_of[$key]}" = "$each" ]; then
            unset -v "cluster_of[$key]"
            former_of[$key]="$each has ended with status $1"
        fi
    done
}

# tend_clusters: of those that run, and of those that are to be followed.
tend_clusters() {
    local each left=()
    for each in "${!pid_of[@]}"; do
        count_users "$each"
        [ "$found_users" = 0 ] || used_since[$each]=$SECONDS
        if [ "${broken[$each]:-0}" -gt 0 ] && [ "$found_users" -le "${broken[$each]}" ]; then
            cancelled[${number_of[$each]}]=yes
        elif [ -n "${ending_until[$each]}" ]; then
            [ "$SECONDS" -lt "${ending_until[$each]}" ] || cancelled[${number_of[$each]}]=yes
        elif [ $((SECONDS - ${used_since[$each]})) -ge "$idle_seconds" ]; then
            end_cluster "$each"
        fi
    done
    for each in "${renewing[@]}"; do follow_cluster "$each" || left+=("$each"); done
    renewing=("${left[@]}")
}

# follow_cluster CLUSTER: whether those that wait for what follows it know that.
follow_cluster() {
    local key=${key_of[$1]} directory each
    [ -z "${pid_of[$1]}" ] || return
    directory=$(cluster_directory "$1")
    if [ -z "${cluster_of[$key]}" ]; then start_cluster "$key" "$directory/job.sh" || return; fi
    for each in "${!used_by[@]}"; do
        [ "${used_by[$each]}" = "$1" ] || continue
        used_by[$each]=${cluster_of[$key]}
        served[${cluster_of[$key]}]=$((${served[${cluster_of[$key]}]} + 1))
    done
    printf '%s\n' "$(cluster_directory "${cluster_of[$key]}")" >"$directory/next"
}
