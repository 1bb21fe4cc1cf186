# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154,SC2317  # read, and assigned, in front of this file; reached by name
# A cluster that a session keeps for many steps (session/clusters.sh), as a step sees it that works beside it: a part of
# hooks behind nodes.sh. The cluster is a step of its own, whose payload keep.sh waits; this one is started on its first node.
# A hook NAME that uses it defines NAME_check: whether it answers, in a bounded time. In the environment are:
#   DAGSTER_SLURM_CLUSTER=DIRECTORY  DAGSTER_SLURM_CLUSTER_USES=STEPS_BEFORE
# In that directory: `ready`, by its payload; `log`, as of any step; `former`, why the one before is no more; and `next`,
# by the dispatcher, the directory of what replaces it.
kept_dir=
kept_nodes=
kept_why=
kept_mark=
kept_is_final=

# kept_read FILE: as nodes_read, of the cluster's directory.
kept_read() { nodes_dir=$kept_dir nodes_read "$1"; }

# Whether the cluster's step has ended, with a line of its own or, where it was never begun or killed, of the dispatcher.
kept_is_over() {
    local rest
    while read -r kept_mark rest; do
        case $kept_mark in end | over) return 0 ;; esac
    done <"$kept_dir/log/status"
    return 1
} 2>/dev/null

# kept_is_well SECONDS: waits until it is up, and tries it; else kept_why. What has just been started and does not come up
# is not tried again.
kept_is_well() {
    # Longer than it takes itself, so that it can say why.
    local until=$((SECONDS + $1 + 30))
    kept_nodes=$kept_dir/$nodes_of.$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
    until kept_read ready; do
        if kept_is_over; then
            kept_why='it has ended before it was up'
            [ "$kept_mark" = over ] || kept_is_final=yes
            return 1
        fi
        kept_why="it is not up in $1 s"
        [ "$SECONDS" -lt "$until" ] || return
        nodes_pause 0.2
    done
    kept_why='it has ended'
    kept_find_nodes
    ! kept_is_over && nodes_dir=$kept_nodes nodes_read ready || return
    if ! ("${nodes_of}_check") </dev/null >"$nodes_dir/check" 2>&1; then
        kept_why='not all of its nodes answer'
        nodes_last check >&2
        return 1
    fi
}

kept_find_nodes() {
    local id
    nodes_names=()
    for ((id = 0; ; id++)); do
        nodes_dir=$kept_nodes nodes_read "node.$id" || break
        nodes_names+=("${nodes_text%% *}")
    done
    nodes_count=${#nodes_names[@]}
}

# kept_use WHAT SECONDS: sets nodes_text to what the cluster is `ready` with, and kept_nodes to where its tasks have their
# files. One that is broken is replaced, once.
kept_use() {
    local is_replaced=''
    kept_dir=$DAGSTER_SLURM_CLUSTER
    exec {nodes_lifeline}<> <(:) || return
    kept_tell_former "$1"
    until kept_is_well "$2"; do
        if [ -n "$is_replaced$kept_is_final" ]; then
            say "$1: the session's cluster ${kept_dir##*/} cannot be used: $kept_why"
            tail -n 15 -- "$kept_dir/log/stderr.${SLURM_RESTART_COUNT:-0}" 2>/dev/null | cut -c 1-500 | sed 's/^/    /' >&2
            return 74
        fi
        nodes_log WARNING "$1: the session's cluster ${kept_dir##*/} cannot be used: $kept_why. It is replaced"
        is_replaced=yes
        kept_replace "$1" "$2" || return
    done
    nodes_log INFO "$1: the session's cluster ${kept_dir##*/}, $(kept_history "$is_replaced")"
}

kept_tell_former() {
    [ "$DAGSTER_SLURM_CLUSTER_USES" = 0 ] && kept_read former || return 0
    nodes_log WARNING "$1: the session's former cluster $nodes_text. It is replaced by ${kept_dir##*/}"
}

kept_history() {
    if [ -n "$1" ] || [ "$DAGSTER_SLURM_CLUSTER_USES" = 0 ]; then
        printf 'new for this step'
    else
        printf 'which has served %s step(s) before' "$DAGSTER_SLURM_CLUSTER_USES"
    fi
}

# kept_replace WHAT SECONDS: asks the dispatcher for another, and waits for it. Others may use the broken one still.
kept_replace() {
    local allocation=${kept_dir%/clusters/*} until=''
    sh "$allocation/work/mail.sh" "$allocation" say broken "${kept_dir##*/}" || until=0
    until kept_read next; do
        [ -n "$until" ] || ! kept_is_over || until=$((SECONDS + $2))
        if [ -n "$until" ] && [ "$SECONDS" -ge "$until" ]; then
            say "$1: the session has no other cluster for ${kept_dir##*/}"
            return 74
        fi
        nodes_pause 0.2
    done
    kept_dir=$nodes_text
}

# As nodes_watch: without the cluster's first node the payload is ended.
kept_watch() {
    local said='' never
    exec {never}<> <(:) {nodes_lifeline}>&-
    nodes_lifeline=$never
    while :; do
        nodes_pause 1
        if nodes_dir=$kept_nodes nodes_read end.0 || kept_is_over; then break; fi
        if ! nodes_dir=$kept_nodes nodes_read failed || [ "$nodes_text" = "$said" ]; then continue; fi
        said=$nodes_text
        nodes_log WARNING "$nodes_of: node ${nodes_names[${said%% *}]}: ${said#* }; the payload goes on"
    done
    nodes_end_payload
}

kept_guard() {
    nodes_have payload headless || return
    kept_watch </dev/null >/dev/null 2>&1 &
    nodes_watcher=$!
    disown "$nodes_watcher"
}

# The cluster stays; sets `code` where its end was that of the payload.
kept_end() {
    [ -n "$nodes_watcher" ] || return 0
    kill -KILL -- "-$nodes_watcher" 2>/dev/null
    if [ "$code" != 0 ] && nodes_read headless; then
        code=74
        say "$nodes_of: the session's cluster ${kept_dir##*/} has ended before the payload; its logs are in $kept_dir"
    fi
}
