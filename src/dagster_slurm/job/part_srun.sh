#!/bin/bash
# In front of Slurm's own on the PATH of a component, and of a step of a session: without these options, a step would be one
# of the leader's, or wait for room beside the step that asks for it, on any of the allocation's nodes.
own=${0%/*}
PATH=:$PATH:
PATH=${PATH//:"$own":/:}
PATH=${PATH#:}
export PATH=${PATH%:}
if [ -n "$DAGSTER_SLURM_HET_GROUP" ]; then exec srun --het-group="$DAGSTER_SLURM_HET_GROUP" "$@"; fi
more=()
# Slurm gives a step that overlaps all GPUs of the allocation (22.05): it is to see those of the step that asks for it.
if [ -n "$SLURM_JOB_GPUS" ] && [ -z "$SLURM_STEP_GPUS" ]; then
    more=(--gres=none)
elif [ -n "$SLURM_JOB_GPUS" ] && [ "$SLURM_JOB_NUM_NODES" = 1 ]; then
    export DAGSTER_SLURM_GPUS=$SLURM_STEP_GPUS
    more=(--task-prolog="${own%/*}/gpus.sh")
fi
exec srun --overlap --nodelist="$SLURM_JOB_NODELIST" "${more[@]}" "$@"
