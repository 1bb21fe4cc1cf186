# shellcheck shell=sh
# withdraw.sh ATTEMPT: take every gate that is free, so that no job of this attempt can run its payload any more, and close it.
# Output: "id JOB GENERATION" for each job that is known, "name GENERATION" for each try to submit whose job is not.
cd -- "$1" 2>/dev/null || exit 0
mkdir -p claim
next=0
while ! ln -sT closed "claim/$next" 2>/dev/null; do
    [ ! -L "claim/$next" ] || break
    claim=claim/$next
    [ -d "$claim" ] || exit 74
    ln -sT revoked "$claim/gate" 2>/dev/null
    owner=$(readlink -- "$claim/gate")
    [ "$owner" = revoked ] || printf 'id %s %s\n' "$owner" "$next"
    if [ -s "$claim/status" ]; then
        [ ! -s "$claim/stdout" ] || printf 'id %s %s\n' "$(cut -d ';' -f 1 "$claim/stdout")" "$next"
    else
        printf 'name %s\n' "$next"
    fi
    next=$((next + 1))
done
