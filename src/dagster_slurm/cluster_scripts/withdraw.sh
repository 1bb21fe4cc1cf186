# shellcheck shell=sh
# withdraw.sh ATTEMPT: take every gate that is free, so that no job of this attempt can run its payload any more, and close it.
# Output, of each try to submit: "GENERATION gate OWNER", and "GENERATION said LINE" for each line that sbatch printed.
cd -- "$1" 2>/dev/null || exit 0
mkdir -p claim
next=0
while ! ln -sT closed "claim/$next" 2>/dev/null; do
    [ ! -L "claim/$next" ] || break
    claim=claim/$next
    [ -d "$claim" ] || exit 74
    ln -sT revoked "$claim/gate" 2>/dev/null
    printf '%s gate %s\n' "$next" "$(readlink -- "$claim/gate")"
    # shellcheck disable=SC1003 # a command of sed: a line break where the last line has none
    [ ! -s "$claim/stdout" ] || sed -e "s/^/$next said /" -e '$a\' "$claim/stdout"
    next=$((next + 1))
done
