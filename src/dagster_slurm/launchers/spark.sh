# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read by nodes.sh; assigned in front of this file
# A standalone cluster of Spark over the nodes of the job, as a hook behind nodes.sh. In front of it stand, generated and
# quoted, the function spark_setup, and:
#   spark_here=yes|''  spark_given_home=...  spark_master=...  spark_timeout=...  spark_interface=...  spark_auth=yes|''
#   spark_executor_mib=...  spark_executor_cores=...  spark_executors=...  spark_driver_mib=...
#   spark_conf=('KEY VALUE' ...)  spark_events=yes|''  spark_wrapper=(...)  spark_python=...  spark_program=...
#   spark_shared=yes|'': in a session, that of kept.sh is used; keeps: this is that one, and the driver is not in it
# What a JVM or Python takes besides: a daemon with its heap of 256 MiB, what of a driver is not its heap.
spark_daemon_mib=300
spark_beside_mib=300
# With less Spark does not start.
spark_least_mib=512

spark_begin() {
    local found
    nodes_begin spark "$spark_here" || return
    # Shuffles and spills lie there.
    nodes_tmp_most=4000
    printf '%s\n' "$spark_program" >"$nodes_dir/program.py" || return
    if ! found=$(spark_ask 2>"$nodes_dir/look"); then
        say "Spark cannot run: node ${nodes_names[0]}: $found"
        nodes_last look >&2
        return 74
    fi
    spark_take "$found"
    [ -z "$spark_java" ] || nodes_log INFO "Java does not understand this job's control group: it runs with $spark_java"
    if [ -n "$spark_here$spark_master" ]; then
        spark_join
    elif [ "$spark_shared" = yes ] && [ -n "$DAGSTER_SLURM_CLUSTER" ]; then
        spark_use_kept
    else
        spark_bring_up
    fi
}

spark_enter() { [ -z "$nodes_process$nodes_watcher" ] || nodes_enter; }

spark_end() { if [ -n "$nodes_process" ]; then nodes_end; elif [ -n "$nodes_watcher" ]; then kept_end; fi; }

# The directory of settings has the secret.
spark_leave() {
    [ -n "$nodes_dir" ] || return 0
    [ -z "$spark_own_tmp" ] || rm -rf -- "$spark_own_tmp"
    rm -rf -- "$nodes_dir/conf" "$nodes_dir/daemons"
    nodes_leave
}

# After the environment was entered, which may bring a Spark of its own: the payload's is that of the cluster.
spark_export() {
    export SPARK_HOME=$spark_home SPARK_CONF_DIR=$nodes_dir/conf SPARK_LOCAL_IP=$nodes_address SPARK_LOCAL_DIRS=$spark_tmp
    export PYSPARK_PYTHON=$spark_executable PATH=$spark_home/bin:$PATH
    spark_use_python
}

# Of a Spark that is no package of the environment.
spark_use_python() {
    local each source=$spark_home/python
    [ -n "$spark_given_home" ] || return 0
    [ -f "$source/pyspark/__init__.py" ] || source=$source/lib/pyspark.zip
    for each in "$spark_home"/python/lib/py4j-*-src.zip "$source"; do
        export PYTHONPATH=$each${PYTHONPATH:+:$PYTHONPATH}
    done
}

# In the payload's environment: prints what spark_take reads; else why there is no Spark here.
spark_ask() {
    spark_setup >&2
    read_variables "$run_directory" "$place" && spark_look
}

spark_look() { "${spark_wrapper[@]}" "$spark_python" "$nodes_dir/program.py" look "$spark_given_home"; }

spark_take() {
    local facts
    mapfile -t facts <<<"$1"
    spark_home=${facts[0]} spark_version=${facts[1]} spark_executable=${facts[2]} spark_site=${facts[3]}
    spark_java=${facts[4]} spark_port=${facts[5]}
}

# spark_write_conf DIRECTORY LINE ...: settings as the site has them, then ours, then the user's: the last holds.
spark_write_conf() {
    local to=$1
    shift
    (umask 077 && mkdir -- "$to") || return
    [ -z "$spark_site" ] || cp -RL -- "$spark_site/." "$to" || return
    {
        [ ! -e "$to/spark-defaults.conf" ] || cat -- "$to/spark-defaults.conf"
        printf '\n'
        [ -z "$spark_auth" ] || printf 'spark.authenticate.secret %s\n' "$(<"$nodes_token")"
        printf '%s\n' "$@" "${spark_conf[@]}"
    } >"$to/own" && mv -f -- "$to/own" "$to/spark-defaults.conf"
}

# Of the daemons and of the payload. A page has no login: who sees it can end nothing.
spark_set_common() {
    spark_common=('spark.ui.killEnabled false')
    [ -z "$spark_auth" ] || spark_common+=('spark.authenticate true' 'spark.network.crypto.enabled true')
}

# spark_write_payload LINE ...
spark_write_payload() {
    local java="-Djava.io.tmpdir=$spark_tmp -XX:-UsePerfData $spark_java"
    local lines=("${spark_common[@]}" 'spark.ui.showConsoleProgress false' "spark.driver.defaultJavaOptions $java"
        "spark.driver.host $nodes_address" "spark.driver.bindAddress $nodes_address" "$@")
    if [ -n "$spark_events" ]; then
        mkdir -p -- "$place/work/spark-events" || return
        lines+=('spark.eventLog.enabled true' "spark.eventLog.dir file://$place/work/spark-events")
    fi
    spark_write_conf "$nodes_dir/conf" "${lines[@]}"
}

# No cluster of our own: this machine in mode local, or one that is there already.
spark_join() {
    local lines=()
    spark_auth=''
    spark_set_common
    spark_find_place || return
    [ -z "$spark_driver_mib" ] || lines+=("spark.driver.memory ${spark_driver_mib}m")
    if [ -z "$spark_master" ]; then
        spark_write_payload 'spark.master local[*]' "spark.ui.port $spark_port" "${lines[@]}" || return
        nodes_log INFO "Spark ${spark_version% *} on this machine"
        nodes_log_page "Spark's page, while a session is open" "$nodes_address:$spark_port"
        return
    fi
    [ -z "$spark_executor_mib" ] || lines+=("spark.executor.memory ${spark_executor_mib}m")
    [ -z "$spark_executor_cores" ] || lines+=("spark.executor.cores $spark_executor_cores")
    [ -z "$spark_executors" ] || lines+=("spark.executor.instances $spark_executors")
    [ -z "$spark_executors$spark_executor_cores" ] ||
        lines+=("spark.cores.max $((${spark_executors:-1} * ${spark_executor_cores:-1}))")
    spark_write_payload "spark.master $spark_master" 'spark.ui.port 0' "${lines[@]}" || return
    nodes_log INFO "Spark ${spark_version% *}: the cluster $spark_master"
}

# Of a driver that is in no node's task.
spark_find_place() {
    nodes_make_tmp || return
    spark_own_tmp=$nodes_tmp spark_tmp=$nodes_tmp nodes_name=${nodes_names[0]}
    nodes_find_address
}

# Of this step's memory the driver has what a JVM does not take besides.
spark_use_kept() {
    local driver=$spark_driver_mib mib nodes_token
    spark_set_common
    spark_find_place || return
    mib=$(nodes_mib)
    driver=${driver:-$(((mib - spark_beside_mib) * 10 / 11))}
    if [ "$driver" -lt $spark_least_mib ]; then
        say "Spark does not start with less than $spark_least_mib MiB, and of this step's $mib MiB its driver has $driver"
        return 74
    fi
    kept_use Spark "$spark_timeout" || return
    nodes_token=$kept_nodes/token
    spark_write_cluster "$driver" || return
    kept_guard
}

# As kept.sh asks: whether all of its workers are alive.
spark_check() {
    local page
    read -r _ page _ <<<"$nodes_text"
    spark_setup
    read_variables "$run_directory" "$place" || return
    timeout -k 2 60 "${spark_wrapper[@]}" "$spark_python" "$nodes_dir/program.py" wait "$page" 30 "$nodes_count"
}

spark_bring_up() {
    nodes_have address ready && nodes_make_token || return
    spark_set_common
    spark_write_conf "$nodes_dir/daemons" "${spark_common[@]}" 'spark.master.rest.enabled false' \
        'spark.ui.reverseProxy true' 'spark.worker.timeout 20' || return
    # Where a site has daemons log less, the master does not say where it is.
    rm -f -- "$nodes_dir"/daemons/log4j*
    nodes_start || return
    nodes_await_ready Spark "$spark_timeout" || return
    read -r _ _ spark_tmp _ <<<"$nodes_text"
    nodes_address=$(nodes_read node.0 && printf '%s' "${nodes_text#* }")
    spark_write_cluster || return
    nodes_guard
}

# spark_write_cluster [DRIVER_MIB]: settings for the cluster that nodes_text describes, which the log of the run names.
spark_write_cluster() {
    local url page heap cores executors driver
    read -r url page _ heap cores executors driver <<<"$nodes_text"
    spark_write_payload "spark.master $url" 'spark.ui.port 0' 'spark.ui.reverseProxy true' \
        "spark.driver.memory ${1:-$driver}m" "spark.executor.memory ${heap}m" "spark.executor.cores $cores" \
        "spark.cores.max $((executors * cores))" \
        "spark.executor.defaultJavaOptions -XX:+IgnoreUnrecognizedVMOptions -XX:ActiveProcessorCount=$cores" || return
    nodes_log INFO "Spark ${spark_version% *} on $nodes_count node(s), ${nodes_names[*]}: $url, \
$executors executor(s) of $cores CPU(s) and $heap MiB"
    [ -n "$spark_auth" ] ||
        nodes_log WARNING "spark.authenticate is false: whoever reaches ${nodes_names[0]} can use this cluster"
    nodes_log_page "Spark's page" "$page"
}

# ---- on each node --------------------------------------------------------------------------------------------------

spark_node() {
    local found
    if [ "$nodes_id" != 0 ]; then
        found=$(spark_look) || nodes_fail "$found" || return
        spark_take "$found"
    fi
    spark_set_variables
    if [ "$nodes_id" = 0 ]; then spark_head; else spark_worker; fi
}

# What the daemons have, and what they start. Java reads its options from a variable: of an executor the payload knows
# neither its directory nor what Java needs there.
spark_set_variables() {
    unset -v SPARK_MASTER_HOST SPARK_MASTER_PORT SPARK_WORKER_PORT SPARK_WORKER_INSTANCES
    export SPARK_HOME=$spark_home SPARK_CONF_DIR=$nodes_dir/daemons SPARK_LOCAL_IP=$nodes_address
    export SPARK_LOCAL_DIRS=$nodes_tmp SPARK_DAEMON_MEMORY=256m
    export JAVA_TOOL_OPTIONS="${JAVA_TOOL_OPTIONS:+$JAVA_TOOL_OPTIONS }-Djava.io.tmpdir=$nodes_tmp -XX:-UsePerfData $spark_java"
    export SPARK_DAEMON_JAVA_OPTS="-XX:+UseSerialGC -XX:TieredStopAtLevel=1 $SPARK_DAEMON_JAVA_OPTS"
    spark_use_python
}

spark_class=org.apache.spark.deploy

spark_head() {
    local url page driver heap cores share executors log=$nodes_dir/out.0
    spark_fit || return
    nodes_start_daemon "${spark_wrapper[@]}" "$spark_home/bin/spark-class" $spark_class.master.Master \
        --host "$nodes_address" --port 0 --webui-port 0
    until url=$(sed -n 's/.*Starting Spark master at \(spark:[^ ]*\).*/\1/p' "$log") && [ -n "$url" ] &&
        page=$(sed -n 's/.*MasterWebUI.* started at http:..\([^ ]*\).*/\1/p' "$log") && [ -n "$page" ]; do
        kill -0 "$nodes_process" 2>/dev/null || return 0
        nodes_pause 0.1
    done
    nodes_publish address "$url $heap $cores $share $spark_version"
    # Without this node's worker the others go on.
    (
        spark_run_worker "$url" "$number" "$heap" "$cores"
        nodes_publish failed "$nodes_id its worker has ended with status $?"
    ) </dev/null {nodes_lifeline}<&- &
    page=$nodes_address:${page##*:}
    nodes_bring_up "$url $page $nodes_tmp $heap $cores $executors $driver" "$spark_timeout" \
        "${spark_wrapper[@]}" "$spark_python" "$nodes_dir/program.py" \
        wait "$page" "$(nodes_seconds_left "$spark_timeout")" "$nodes_count"
}

# spark_run_worker URL EXECUTORS HEAP CORES: what it offers is for so many of one size.
spark_run_worker() {
    "${spark_wrapper[@]}" "$spark_home/bin/spark-class" $spark_class.worker.Worker --host "$nodes_address" --port 0 \
        --webui-port 0 --work-dir "$nodes_tmp/work" --cores $(($2 * $4)) --memory $(($2 * $3))m "$1"
}

# Sets the heaps of the driver and of an executor in MiB (driver, heap), and of how many CPUs (cores) executors are, what
# each needs of the memory (share), how many there are on this node (number) and in all (executors). They are of one
# size, and the first node has the driver and the master besides.
spark_fit() {
    local mib left all
    mib=$(nodes_mib) all=$(nodes_cpus)
    driver=$spark_driver_mib
    if [ "$spark_shared" = keeps ]; then
        driver=0
    elif [ -z "$driver" ]; then
        driver=$((mib / 8 < 4096 ? mib / 8 : 4096))
        [ "$driver" -ge $spark_least_mib ] || driver=$spark_least_mib
    fi
    left=$((mib - 2 * spark_daemon_mib - driver - driver / 10 - (driver > 0 ? spark_beside_mib : 0)))
    spark_fit_executor "$left" "$all" || return
    number=$(spark_number "$left" "$all")
    if [ "$number" -lt 1 ]; then
        nodes_fail "of its $mib MiB and $all CPUs, the driver and Spark itself leave $((left > 0 ? left : 0)) MiB, and an \
executor of $cores CPUs needs $share MiB: ask for more memory, or for less in executor_memory or driver_memory"
        return
    fi
    executors=$((nodes_count * number))
    [ "${spark_executors:-0}" -le "$executors" ] ||
        nodes_fail "there is room for $executors executors of $cores CPUs and $share MiB, and num_executors is $spark_executors" ||
        return
    executors=${spark_executors:-$executors}
}

# spark_fit_executor MIB CPUS: by default at most 8 CPUs each. Beside its heap an executor has what Java takes and a
# Python for each CPU, for which Spark itself has nothing: 0.4 of its share.
spark_fit_executor() {
    local least=$((spark_least_mib * 10 / 6 + 1)) count
    heap=$spark_executor_mib cores=$spark_executor_cores
    share=$((heap + (heap / 10 > 384 ? heap / 10 : 384)))
    [ -n "$heap" ] || share=$least
    if [ -z "$cores" ]; then
        count=$((($2 + 7) / 8))
        [ $(($1 / share)) -ge "$count" ] || count=$(($1 / share > 0 ? $1 / share : 1))
        cores=$(($2 / count))
    fi
    [ -z "$heap" ] || return 0
    count=$(($2 / cores > 0 ? $2 / cores : 1))
    [ $(($1 / count)) -le "$least" ] || share=$(($1 / count))
    heap=$((share * 6 / 10))
}

# spark_number MIB CPUS: of how many executors that is enough.
spark_number() {
    local by_memory=$(($1 / share)) by_cpus=$(($2 / cores))
    printf '%s' $((by_memory < by_cpus ? by_memory : by_cpus))
}

spark_worker() {
    local url heap cores share version number
    # Why the master has none, another has said.
    nodes_await address "$spark_timeout" || return "$nodes_has_said"
    read -r url heap cores share version <<<"$nodes_text"
    if [ "$version" != "$spark_version" ]; then
        nodes_fail "it has Spark ${spark_version% *} with Python ${spark_version#* }, \
and ${nodes_names[0]} has Spark ${version% *} with Python ${version#* }"
        return
    fi
    number=$(spark_number $(($(nodes_mib) - spark_daemon_mib)) "$(nodes_cpus)")
    [ "$number" -gt 0 ] || nodes_fail "its $(nodes_mib) MiB are too few for an executor of $share MiB" || return
    nodes_start_daemon spark_run_worker "$url" "$number" "$heap" "$cores"
}

# The logs of executors; those of the daemons are in the nodes' own.
spark_keep() {
    local each to
    for each in "$nodes_tmp"/work/*/*/; do
        to=$1/${each#"$nodes_tmp/work/"}
        mkdir -p -- "$to" && nodes_copy_logs "$each" "$to"
    done
}
