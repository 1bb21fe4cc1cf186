# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read by nodes.sh; assigned in front of this file
# A Ray cluster over the nodes of the job, as a hook behind nodes.sh. In front of it stand, generated and quoted, the
# functions ray_setup and ray_pre_start, and:
#   ray_here=yes|''  ray_address=...  ray_timeout=...  ray_grace=...  ray_cpus=...  ray_gpus=...  ray_store_mib=...
#   ray_interface=...  ray_address_command=...  ray_dashboard_host=...  ray_ports=random|hash_jobid|fixed
#   ray_fixed=(--OPTION=PORT ...)  ray_start_args=(...)  ray_python=(...)  ray_program=...  ray_ignored=...
#   ray_shared=yes|'': in a session, that of kept.sh is used

ray_begin() {
    nodes_begin ray "$ray_here" || return
    [ -z "$ray_ignored" ] || nodes_log WARNING "$ray_ignored"
    printf '%s\n' "$ray_program" >"$nodes_dir/program.py" || return
    if [ -n "$ray_address" ]; then
        ray_join
        return
    fi
    # A file of our own: one in ~/.ray, which any `ray.init()` writes, would count for some nodes and not for others.
    unset -v RAY_AUTH_TOKEN RAY_ADDRESS
    export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0}
    if [ -n "$ray_shared" ] && [ -n "$DAGSTER_SLURM_CLUSTER" ]; then
        kept_use Ray "$ray_timeout" || return
        ray_tell "$kept_nodes/token"
        kept_guard
        return
    fi
    # The raylet takes its leave of the first node's tables, in a tenth of a second. With TERM for all, they are gone
    # before, for which it waits; and `ray start` waits a second for each part.
    nodes_grace=$ray_grace nodes_core=raylet
    nodes_have address ready && nodes_make_token || return
    export RAY_AUTH_TOKEN_PATH=$nodes_token
    nodes_start || return
    nodes_await_ready Ray "$ray_timeout" || return
    ray_tell "$nodes_token"
    nodes_guard
}

# ray_tell TOKEN: how the cluster that nodes_text describes is used, to the payload and in the log of the run.
ray_tell() {
    local address version dashboard
    read -r address version dashboard <<<"$nodes_text"
    export RAY_ADDRESS=$address RAY_AUTH_TOKEN_PATH=$1
    nodes_log INFO "Ray $version on $nodes_count node(s), ${nodes_names[*]}: RAY_ADDRESS=$address"
    ray_tell_dashboard "$version" "$dashboard" "$1"
}

# As kept.sh asks: whether all of its nodes are alive.
ray_check() {
    local address=${nodes_text%% *}
    export RAY_AUTH_TOKEN_PATH=$kept_nodes/token
    ray_setup
    read_variables "$run_directory" "$place" || return
    timeout -k 2 60 "${ray_python[@]}" "$nodes_dir/program.py" wait "$address" 30 "$nodes_count"
}

ray_enter() { [ -z "$nodes_process$nodes_watcher" ] || nodes_enter; }

ray_end() { if [ -n "$nodes_process" ]; then nodes_end; elif [ -n "$nodes_watcher" ]; then kept_end; fi; }

ray_leave() { nodes_leave; }

# A cluster that is there already, if it is of the payload's Ray and Python: a driver would hang, or fail in the middle.
ray_join() {
    if ! (ray_ask_cluster) </dev/null >"$nodes_dir/join" 2>&1; then
        say "The Ray cluster $ray_address cannot be used"
        nodes_last join >&2
        return 74
    fi
    export RAY_ADDRESS=$ray_address
    nodes_log INFO "Ray: the cluster $ray_address"
}

ray_ask_cluster() {
    ray_setup
    read_variables "$run_directory" "$place" || return
    "${ray_python[@]}" "$nodes_dir/program.py" join "$ray_address" "$ray_timeout"
}

# The token is in no log; the command that prints it is.
ray_tell_dashboard() {
    local token
    if [ "$2" = - ]; then
        nodes_log INFO "Ray has no dashboard: the environment has ray without what ray[default] adds"
        return
    fi
    token="token: cat $3"
    if ray_is_older "$1" 2.52; then
        nodes_log WARNING "Ray $1 knows no tokens (2.52 does): whoever reaches ${nodes_names[0]} can use this cluster"
        token='no token'
    fi
    nodes_log_page "Ray's dashboard" "$2" " ($token)"
}

# ray_is_older VERSION MAJOR.MINOR
ray_is_older() {
    local major=${1%%.*} rest=${1#*.}
    [ "$major" -lt "${2%.*}" ] || { [ "$major" = "${2%.*}" ] && [ "${rest%%.*}" -lt "${2#*.}" ]; }
}

# ---- on each node --------------------------------------------------------------------------------------------------

ray_node() {
    local version python grpc port others
    # A payload's own variables are for the driver.
    unset -v RAY_ADDRESS
    ray_look || return
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-0}
    ray_pre_start || nodes_fail "pre_start_commands have ended with status $?" || return
    if [ "$nodes_id" = 0 ]; then ray_head; else ray_worker; fi
}

# Sets what this node has: version, python, grpc, and a port that was free just now.
ray_look() {
    local found
    if ! found=$("${ray_python[@]}" "$nodes_dir/program.py" look); then
        nodes_fail "there is no Ray in its environment (${ray_python[*]}): add it, as with \`uv add 'ray[default]'\` \
or \`pixi add ray-default\`"
        return
    fi
    read -r version python grpc port <<<"$found"
}

# Sets `size`: Ray by itself takes the machine's CPUs and memory, not the job's. Its object store is of the same memory.
ray_size() {
    local mib store daemons
    size=(--num-cpus="${ray_cpus:-${SLURM_CPUS_PER_TASK:-$(nproc)}}" --num-gpus="${SLURM_GPUS_ON_NODE:-${ray_gpus:-0}}")
    store=$ray_store_mib
    if [ -z "$ray_here" ]; then
        mib=$(nodes_mib)
        store=${store:-$((mib * 3 / 10))}
        daemons=$((mib / 4 < 1024 ? mib / 4 : 1024))
        [ "$store" -lt $((mib - daemons - 100)) ] || store=$((mib - daemons - 100))
        [ "$store" -ge 80 ] || store=80
        mib=$((mib - store - daemons))
        size+=(--memory=$(((mib > 100 ? mib : 100) << 20)))
    fi
    [ -z "$store" ] || size+=(--object-store-memory=$((store << 20)))
}

# Sets `ports`. None is fixed by default: a second job's nodes would join the first one's cluster.
ray_choose_ports() {
    local base
    ports=()
    case $ray_ports in
    fixed) ports=("${ray_fixed[@]}") ;;
    hash_jobid)
        base=$((20000 + ${SLURM_JOB_ID:-$$} % 400 * 30))
        ports=(--port="$base" --dashboard-port=$((base + 1)) --ray-client-server-port=$((base + 2))
            --node-manager-port=$((base + 3)) --object-manager-port=$((base + 4))
            --dashboard-agent-listen-port=$((base + 5)) --dashboard-agent-grpc-port=$((base + 6))
            --runtime-env-agent-port=$((base + 7)) --metrics-export-port=$((base + 8)))
        ;;
    *) ports=(--port=0 --dashboard-port=0 --ray-client-server-port="$port" --dashboard-agent-listen-port=0) ;;
    esac
    [[ " ${ports[*]}" == *" --min-worker-port="* ]] || ports+=(--min-worker-port=0 --max-worker-port=0)
    ray_leave_out_ports
}

# Those that this node's Ray refuses: a worker has no head's, and one without grpc no server for clients.
ray_leave_out_ports() {
    local each all=("${ports[@]}")
    ports=()
    for each in "${all[@]}"; do
        case $each in
        --port=* | --dashboard-port=*) [ "$nodes_id" = 0 ] || continue ;;
        --ray-client-server-port=*) [ "$nodes_id$grpc" = 0yes ] || continue ;;
        esac
        ports+=("$each")
    done
}

ray_start() {
    local ports size
    ray_size
    ray_choose_ports
    nodes_start_daemon "${ray_python[@]}" -m ray.scripts.scripts start --block --node-ip-address="$nodes_address" \
        --temp-dir="$nodes_tmp" --log-style=record "${size[@]}" "${ports[@]}" "$@" "${ray_start_args[@]}"
}

ray_head() {
    local address host=$ray_dashboard_host
    if [ -z "$host" ]; then
        host=$nodes_address
        ! ray_is_older "$version" 2.52 || host=127.0.0.1
    fi
    ray_start --head --dashboard-host="$host"
    until [ -s "$nodes_tmp/ray_current_cluster" ]; do
        kill -0 "$nodes_process" 2>/dev/null || return 0
        nodes_pause 0.05
    done
    read -r address <"$nodes_tmp/ray_current_cluster" || [ -n "$address" ] || return
    nodes_publish address "$address $version $python"
    # Ready is what is alive in Ray's own table.
    nodes_bring_up "$address $version" "$ray_timeout" "${ray_python[@]}" "$nodes_dir/program.py" \
        wait "$address" "$(nodes_seconds_left "$ray_timeout")" "$nodes_count"
}

ray_worker() {
    local others
    # Why the head has none, another has said.
    nodes_await address "$ray_timeout" || return "$nodes_has_said"
    others=${nodes_text#* }
    if [ "$others" != "$version $python" ]; then
        nodes_fail "it has Ray $version with Python $python, \
and ${nodes_names[0]} has Ray ${others% *} with Python ${others#* }"
        return
    fi
    ray_start --address="${nodes_text%% *}"
}

ray_keep() { nodes_copy_logs "$nodes_tmp/session_latest/logs" "$1"; }
