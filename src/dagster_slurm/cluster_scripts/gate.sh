# shellcheck shell=sh
# gate.sh owner|revoke CLAIM: who owns the gate, nothing if nobody does. `revoke` takes it first, if it is free.
if [ "$1" = revoke ]; then mkdir -p -- "$2" && ln -sT revoked "$2/gate" 2>/dev/null; fi
readlink -- "$2/gate" || :
