# shellcheck shell=sh
# remove.sh DIRECTORY: remove it, and the directory of its Dagster run if that is empty then, without keeping
# anybody waiting.
# shellcheck disable=SC2016
nohup sh -c 'rm -rf -- "$1" && rmdir -- "${1%/*}"' sh "$1" >/dev/null 2>&1 </dev/null &
