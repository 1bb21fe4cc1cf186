# shellcheck shell=sh
# withdraw.sh ATTEMPT [PROTOCOL]: take every gate that is free, so that no job of this attempt can run its payload any more, and
# close it. With PROTOCOL a request on its way may make the attempt after this: it finds one that is closed, of that version.
# Output, of each try to submit: "GENERATION gate OWNER", and "GENERATION said LINE" for each line that sbatch printed.

if [ -n "${2-}" ]; then
    # Twice: what comes takes the place of a directory that is empty.
    mkdir -p -- "$1/claim" 2>/dev/null || mkdir -p -- "$1/claim" || exit 74
    [ -e "$1/protocol" ] || printf '%s\n' "$2" >"$1/protocol"
fi
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
