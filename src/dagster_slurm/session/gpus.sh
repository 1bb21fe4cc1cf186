#!/bin/sh
# The task prolog of a step that a session's step has started (part_srun.sh): what it prints is set for the task. Of all GPUs of the
# allocation, which Slurm has given it, it keeps those of DAGSTER_SLURM_GPUS. SLURM_STEP_GPUS has their numbers on the node, and
# CUDA_VISIBLE_DEVICES those that the task knows them by, in the same order.
kept='' count=0 rest=$CUDA_VISIBLE_DEVICES,
for number in $(printf '%s' "$SLURM_STEP_GPUS" | tr , ' '); do
    case ,$DAGSTER_SLURM_GPUS, in
    *",$number,"*)
        kept=$kept,${rest%%,*}
        count=$((count + 1))
        ;;
    esac
    rest=${rest#*,}
done
for name in CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES ZE_AFFINITY_MASK GPU_DEVICE_ORDINAL; do
    printenv "$name" >/dev/null && printf 'export %s=%s\n' "$name" "${kept#,}"
done
printf 'export SLURM_STEP_GPUS=%s\nexport SLURM_GPUS_ON_NODE=%s\n' "$DAGSTER_SLURM_GPUS" "$count"
