#!/bin/bash
# What one writes for Ray in a job of several nodes, with the same steps as RayLauncher: one task a node, a token, free
# ports, the sizes of the job, the payload when all nodes are alive, and nothing left. usage: PYTHON PAYLOAD
set -u
python=$1 payload=$2
shared=$PWD/by-hand.$SLURM_JOB_ID
(umask 077 && mkdir "$shared" && od -An -N 32 -tx1 /dev/urandom | tr -d ' \n' >"$shared/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$shared/token RAY_USAGE_STATS_ENABLED=0 shared python
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

cat >"$shared/node.sh" <<'NODE'
tmp=$(mktemp -d /tmp/hand.XXXXXX)
address=$(getent ahostsv4 "$SLURMD_NODENAME" | awk '{ print $1; exit }')
start() {
    "$python" -m ray.scripts.scripts start --block --node-ip-address="$address" --temp-dir="$tmp" --num-cpus="$SLURM_CPUS_PER_TASK" \
        --num-gpus=0 --memory=$((400 << 20)) --object-store-memory=$((600 << 20)) --min-worker-port=0 --max-worker-port=0 \
        --dashboard-agent-listen-port=0 "$@" </dev/null &
    ray=$!
}
if [ "$SLURM_NODEID" = 0 ]; then
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
    start --head --port=0 --dashboard-port=0 --dashboard-host="$address" --ray-client-server-port="$port"
    until [ -s "$tmp/ray_current_cluster" ] || ! kill -0 "$ray"; do sleep 0.05; done
    cp "$tmp/ray_current_cluster" "$shared/new" && mv "$shared/new" "$shared/address"
else
    until [ -s "$shared/address" ]; do sleep 0.05; done
    start --address="$(cat "$shared/address")"
fi
read -r _
kill -TERM "$ray"
wait "$ray"
rm -rf "$tmp"
NODE
cat >"$shared/ready.py" <<'READY'
import sys, time
from ray._raylet import GcsClient
table = GcsClient(address=sys.argv[1])
while sum(node.state == 0 for node in table.get_all_node_info().values()) < int(sys.argv[2]):
    time.sleep(0.1)
READY
exec {lifeline}> >(exec srun --overlap --no-kill --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" --mpi=none \
    bash "$shared/node.sh" >"$shared/out" 2>&1)
step=$!
until [ -s "$shared/address" ]; do sleep 0.05; done
RAY_ADDRESS=$(cat "$shared/address")
export RAY_ADDRESS
"$python" "$shared/ready.py" "$RAY_ADDRESS" "$SLURM_JOB_NUM_NODES"
"$python" "$payload"
exec {lifeline}>&-
wait "$step"
rm -rf "$shared"
