#!/bin/bash
# In front of Slurm's own on the PATH of a component: without the option, a step is one of the leader's.
own=${0%/*}
PATH=:$PATH:
PATH=${PATH//:"$own":/:}
PATH=${PATH#:}
export PATH=${PATH%:}
exec srun --het-group="$DAGSTER_SLURM_HET_GROUP" "$@"
