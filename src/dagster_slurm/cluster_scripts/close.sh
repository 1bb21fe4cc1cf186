# shellcheck shell=sh
# close.sh ATTEMPT GENERATION OUTCOME: let nobody submit in this attempt any more, by taking the place of the next try to
# submit, and note how its job ended if OUTCOME is not empty.
# Status 1: somebody has claimed that try already. An attempt that is not there needs no closing.
cd -- "$1" 2>/dev/null || exit 0
mkdir -p claim || exit 74
if [ -n "$3" ]; then
    printf '%s\n' "$3" >"outcome.part.$$" && mv -- "outcome.part.$$" outcome.json || exit 74
fi
ln -sT closed "claim/$2" 2>/dev/null || [ -L "claim/$2" ]
