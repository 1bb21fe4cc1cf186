# shellcheck shell=sh
# environment_share.sh CACHE ENTRY: lets the group read an environment, and nobody but its owner write to it. The directories
# above it up to that of CACHE can be passed through; what else lies in them stays as it is. Status 74 if that cannot be done.
cache=$1 entry=$1/$2
chmod -R g+rX,go-w -- "$entry" && chmod g+x,go-w -- "$cache" "${cache%/*}" || exit 74
