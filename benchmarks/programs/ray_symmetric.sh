#!/bin/bash
# Ray's own way: `ray symmetric-run` on every node. It ends with `ray stop`, which ends all of the user's Ray on a machine:
# so each node has its own process ids. usage: PYTHON PAYLOAD
# shellcheck disable=SC2016  # expanded on each node
python=$1 payload=$2
address=$(getent ahostsv4 "$SLURMD_NODENAME" | awk '{ print $1; exit }')
export RAY_USAGE_STATS_ENABLED=0 RAY_ADDRESS=$address:$((20000 + SLURM_JOB_ID % 10000)) python payload PATH="${python%/*}:$PATH"
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --mpi=none \
    unshare --user --map-current-user --pid --fork --mount-proc --kill-child bash -c '
        ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus="$SLURM_CPUS_PER_TASK" \
            --object-store-memory=$((600 << 20)) --temp-dir="/tmp/s$SLURM_JOB_ID-$SLURM_NODEID" -- "$python" "$payload"
        exit $?'
rm -rf "/tmp/s$SLURM_JOB_ID-"*
