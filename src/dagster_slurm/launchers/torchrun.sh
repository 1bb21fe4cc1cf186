# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read or assigned in front of this file
# A payload of torchrun, behind ranks.sh: one agent on each node, whose workers are the ranks. In front of this file stand,
# generated and quoted:
#   torchrun_processes=...  torchrun_restarts=...  torchrun_backend=...  torchrun_timeout=...  torchrun_join=...
#   torchrun_options=(...)  python=(...)
# Its arguments are the payload's command.
# Sets `processes`, the ranks of each node, `ranks`, and `library`.
find_torch() {
    local said=$DAGSTER_SLURM_RANKS/library
    nodes=${SLURM_JOB_NUM_NODES:-1}
    if ! library=$("${python[@]}" "$DAGSTER_SLURM_RANKS/torchrun_facts.py" "$torchrun_processes" 2>"$said"); then
        cat -- "$said" >&2
        refuse "torchrun cannot be had in the payload's environment; the payload was not started"
    fi
    read -r processes port library <<<"$library"
    ranks=$((processes * nodes))
}

# Sets `start`: what stands before a rank's command.
prepare() {
    local cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}
    # A run id of this start alone: agents of a former one, and of a requeued job, are not let in.
    start=("${python[@]}" -m torch.distributed.run "--nnodes=$nodes" "--nproc-per-node=$processes"
        "--max-restarts=$torchrun_restarts" "--rdzv-backend=$torchrun_backend" "--rdzv-endpoint=$DAGSTER_SLURM_ADDRESS:$port"
        "--rdzv-id=${DAGSTER_SLURM_RANKS##*.}" "--rdzv-conf=join_timeout=$torchrun_timeout" "${torchrun_options[@]}"
        --no-python)
    # With the agents' store the ranks of a restart find addresses of the former ones: with 2.13.0 and gloo torchrun alone
    # fails 3 of 3 times, and with a store of their own 0 of 2.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus / processes > 0 ? cpus / processes : 1))}
    [ -n "$SLURM_JOB_ID" ] || return 0
    way=srun
    # With an agent that has failed for good, the others wait for it (pytorch 2.13): they have some seconds to end.
    start=(srun "--nodes=$nodes" "--ntasks=$nodes" --ntasks-per-node=1 "--cpus-per-task=$cpus" "--wait=$torchrun_join"
        --kill-on-bad-exit=0 --export=ALL "${start[@]}")
}

catch_signals
find_torch
prepare
say "torch $library: nodes: $nodes, ranks on each: $processes, rendezvous at $DAGSTER_SLURM_ADDRESS:$port"
run_ranks "${start[@]}" bash "$DAGSTER_SLURM_RANKS/rank.sh" torchrun "$@"
exit_by_ends $?
