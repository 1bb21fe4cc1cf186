# shellcheck shell=sh
# submit.sh CLAIM PATIENCE_SECONDS SBATCH...: submit once, however often this is asked for. Whoever makes the directory
# CLAIM submits; everybody then reads the outcome that lies in it.
# Output: "made STATUS" or "found STATUS" by who made the claim, and what sbatch printed; sbatch's stderr on stderr.
# Status 75: no outcome yet; 76: the attempt is closed.
dagster_slurm_claim=$1 dagster_slurm_patience=$2 dagster_slurm_who=found
shift 2
if [ ! -d "${dagster_slurm_claim%/*}" ]; then mkdir -p -- "${dagster_slurm_claim%/*}" || exit 74; fi
if mkdir -- "$dagster_slurm_claim" 2>/dev/null; then
    dagster_slurm_who=made
    dagster_slurm_attempt=${dagster_slurm_claim%/*/*}
    # The cron that the users know looks at the time of the run's directory.
    touch -c -- "${dagster_slurm_attempt%/*/*}"
    if [ -e "$dagster_slurm_attempt/asset" ] && read -r dagster_slurm_asset <"$dagster_slurm_attempt/asset"; then
        dagster_slurm_assets=${dagster_slurm_attempt%/runs/*}/assets
        [ -d "$dagster_slurm_assets" ] || mkdir -p -- "$dagster_slurm_assets"
        ln -sfT -- "../runs/${dagster_slurm_attempt##*/runs/}" "$dagster_slurm_assets/$dagster_slurm_asset"
    fi
    # Slurm's record of the job then names this directory.
    [ -d "$dagster_slurm_attempt/work" ] || mkdir -p -- "$dagster_slurm_attempt/work"
    # Detached: a connection that dies now takes nothing with it. The job inherits the login's settings.
    # shellcheck disable=SC2016,SC2154
    (
        if [ -n "$login_language" ]; then LANGUAGE=$login_language; else unset LANGUAGE; fi
        cd -- "$dagster_slurm_attempt/work" 2>/dev/null || :
        [ -z "$login_cdpath" ] || export CDPATH="$login_cdpath"
        [ -z "$login_tar" ] || export TAR_OPTIONS="$login_tar"
        exec setsid sh -c '
            dagster_slurm_claim=$1; shift
            umask 077
            : >"$dagster_slurm_claim/stdout" >"$dagster_slurm_claim/stderr"
            umask "$1"; shift
            "$@" >"$dagster_slurm_claim/stdout" 2>"$dagster_slurm_claim/stderr" </dev/null
            echo $? >"$dagster_slurm_claim/status.part" &&
                sync -- "$dagster_slurm_claim/stdout" "$dagster_slurm_claim/status.part" &&
                mv -- "$dagster_slurm_claim/status.part" "$dagster_slurm_claim/status"
        ' sh "$dagster_slurm_claim" "$login_umask" "$@"
    ) </dev/null >/dev/null 2>&1 &
    wait "$!"
elif [ -L "$dagster_slurm_claim" ]; then
    exit 76
elif [ ! -d "$dagster_slurm_claim" ]; then
    mkdir -- "$dagster_slurm_claim"
    exit 74
fi
while [ ! -e "$dagster_slurm_claim/status" ] && [ "$dagster_slurm_patience" -gt 0 ]; do
    dagster_slurm_patience=$((dagster_slurm_patience - 1))
    sleep 1
done
printf '%s ' "$dagster_slurm_who"
[ -e "$dagster_slurm_claim/status" ] || exit 75
print() {
    while IFS= read -r dagster_slurm_line || [ -n "$dagster_slurm_line" ]; do printf '%s\n' "$dagster_slurm_line"; done <"$1"
}
print "$dagster_slurm_claim/status"
print "$dagster_slurm_claim/stdout"
print "$dagster_slurm_claim/stderr" >&2
