#!/bin/bash
# The floor: one sbatch for an array, squeue every second until it is gone.
# by_hand_array.sh NUMBER SECONDS
export PAYLOAD_SECONDS=$2
sbatch --parsable --mem=50M --cpus-per-task=1 --array="0-$(($1 - 1))" --wrap='bash payload.sh' >/dev/null || exit
while [ -n "$(squeue --me --noheader)" ]; do sleep 1; done
