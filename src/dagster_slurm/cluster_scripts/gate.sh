# shellcheck shell=sh
# gate.sh owner|revoke CLAIM: who owns the gate, nothing if nobody does. `revoke` takes it if it is free, and says
# "revoked now" if it did.
if [ "$1" = revoke ] && mkdir -p -- "$2" && ln -sT revoked "$2/gate" 2>/dev/null; then
    printf 'revoked now'
    exit
fi
readlink -- "$2/gate" || :
