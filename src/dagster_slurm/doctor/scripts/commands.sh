# shellcheck shell=sh
# commands.sh: Slurm's commands, each with its path, and the version.
for program in sbatch squeue scancel sacct scontrol sinfo sacctmgr; do
    path=$(command -v "$program" 2>/dev/null) && printf '%s %s\n' "$program" "$path"
done
printf 'version %s\n' "$(sbatch --version 2>/dev/null | grep -m 1 '^slurm')"
