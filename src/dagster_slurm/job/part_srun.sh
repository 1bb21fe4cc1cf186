#!/bin/bash
# In front of Slurm's own on the PATH of a component, and of a step of a session: without these options, a step would be one
# of the leader's, or wait for room beside the step that asks for it, on any of the allocation's nodes.
own=${0%/*}
PATH=:$PATH:
PATH=${PATH//:"$own":/:}
PATH=${PATH#:}
export PATH=${PATH%:}
if [ -n "$DAGSTER_SLURM_HET_GROUP" ]; then exec srun --het-group="$DAGSTER_SLURM_HET_GROUP" "$@"; fi
exec srun --overlap --nodelist="$SLURM_JOB_NODELIST" "$@"
