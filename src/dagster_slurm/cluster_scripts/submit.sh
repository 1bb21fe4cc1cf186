# shellcheck shell=sh
# submit.sh CLAIM PATIENCE_SECONDS SBATCH...: submit once, however often this is asked for. Whoever makes the directory
# CLAIM submits; everybody then reads the outcome that lies in it.
# Output: "made STATUS" or "found STATUS" by who made the claim, and what sbatch printed; sbatch's stderr on stderr.
# Status 75: no outcome yet; 76: the attempt is closed.
claim=$1 patience=$2 who=found
shift 2
if [ ! -d "${claim%/*}" ]; then mkdir -p -- "${claim%/*}" || exit 74; fi
if mkdir -- "$claim" 2>/dev/null; then
    who=made
    attempt=${claim%/*/*}
    # The cron that the users know looks at the time of the run's directory.
    touch -c -- "${attempt%/*/*}"
    if [ -e "$attempt/asset" ] && read -r asset <"$attempt/asset"; then
        assets=${attempt%/runs/*}/assets
        [ -d "$assets" ] || mkdir -p -- "$assets"
        ln -sfT -- "../runs/${attempt##*/runs/}" "$assets/$asset"
    fi
    # Slurm's record of the job then names this directory.
    [ -d "$attempt/work" ] || mkdir -p -- "$attempt/work"
    # Detached: a connection that dies now takes nothing with it. The job inherits the login's settings.
    # shellcheck disable=SC2016,SC2154
    (
        if [ -n "$login_language" ]; then LANGUAGE=$login_language; else unset LANGUAGE; fi
        cd -- "$attempt/work" 2>/dev/null || :
        exec setsid sh -c '
            claim=$1; shift
            umask 077
            : >"$claim/stdout" >"$claim/stderr"
            umask "$1"; shift
            "$@" >"$claim/stdout" 2>"$claim/stderr" </dev/null
            echo $? >"$claim/status.part" &&
                sync -- "$claim/stdout" "$claim/status.part" &&
                mv -- "$claim/status.part" "$claim/status"
        ' sh "$claim" "$login_umask" "$@"
    ) </dev/null >/dev/null 2>&1 &
    wait "$!"
elif [ -L "$claim" ]; then
    exit 76
elif [ ! -d "$claim" ]; then
    mkdir -- "$claim"
    exit 74
fi
while [ ! -e "$claim/status" ] && [ "$patience" -gt 0 ]; do
    patience=$((patience - 1))
    sleep 1
done
printf '%s ' "$who"
[ -e "$claim/status" ] || exit 75
print() {
    while IFS= read -r line || [ -n "$line" ]; do printf '%s\n' "$line"; done <"$1"
}
print "$claim/status"
print "$claim/stdout"
print "$claim/stderr" >&2
