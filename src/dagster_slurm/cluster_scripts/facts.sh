# shellcheck shell=sh
# facts.sh: what does not change while this process lives, one "name value" a line.
printf 'home %s\n' "$HOME"
printf 'user %s\n' "$(id -un)"
printf 'version %s\n' "$(sbatch --version 2>/dev/null)"
for program in sbatch squeue scancel; do
    command -v "$program" >/dev/null 2>&1 || printf 'missing %s\n' "$program"
done
