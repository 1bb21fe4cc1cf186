# shellcheck shell=sh
# revoke.sh CLAIM: take the gate, if it is free, so that no job of this try to submit runs its payload any more.
# Output: who owns the gate now.
mkdir -p -- "$1" || exit 74
ln -sT revoked "$1/gate" 2>/dev/null
readlink -- "$1/gate" || exit 74
