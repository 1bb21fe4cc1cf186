# shellcheck shell=sh
# What a session needs of a job, tried within one: the names of its nodes, a directory as a lock, and a step on a share of it.
# Lines "dagster-slurm session NAME VALUE".
tell() { printf 'dagster-slurm session %s %s\n' "$1" "$2"; }
tell nodes "$(scontrol show hostnames "$SLURM_JOB_NODELIST" 2>/dev/null | wc -l)"
if mkdir session.lock && ! mkdir session.lock 2>/dev/null && rmdir session.lock; then tell lock yes; fi
said=$(timeout 60 srun --exact --nodes=1 --ntasks=1 --cpus-per-task=1 --input=none echo begun 2>&1)
tell status "$?"
tell said "$(printf %s "$said" | tr '\n' ' ')"
