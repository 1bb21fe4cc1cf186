# shellcheck shell=sh
# facts.sh BASE: what does not change while this process lives, one "name value" a line; `below` is of each directory of ours
# in BASE: owner, mode, kind and, behind a slash, name.
printf 'home %s\n' "$HOME"
printf 'user %s\n' "$(id -un)"
printf 'uid %s\n' "$(id -u)"
# A site may have its say around it.
printf 'version %s\n' "$(sbatch --version 2>/dev/null | grep -m 1 '^slurm')"
for program in sbatch squeue scancel; do
    command -v "$program" >/dev/null 2>&1 || printf 'missing %s\n' "$program"
done
# The channel has unset it: several clusters of one login node are not supported.
if [ -n "${login_clusters-}" ]; then
    printf 'clusters %s\n' "$login_clusters"
    printf 'cluster %s\n' "$(scontrol show config 2>/dev/null | sed -n 's/^ClusterName *= *//p')"
fi
base=$1
case $base in [~] | [~]/*) base=$HOME${base#?} ;; esac
cd -- "$base" 2>/dev/null && stat -c 'below %u %a %F/%n' -- runs assets data results env-cache 2>/dev/null
exit 0
