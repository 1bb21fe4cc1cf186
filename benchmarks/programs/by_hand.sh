#!/bin/bash
# The floor: sbatch for each job, squeue every second until all are gone.
# by_hand.sh NUMBER SECONDS
export PAYLOAD_SECONDS=$2
for _ in $(seq "$1"); do
    sbatch --parsable --mem=50M --cpus-per-task=1 --wrap='bash payload.sh' >/dev/null || exit
done
while [ -n "$(squeue --me --noheader)" ]; do sleep 1; done
