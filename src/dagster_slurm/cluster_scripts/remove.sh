# shellcheck shell=sh
# remove.sh DIRECTORY: remove it without keeping anybody waiting.
nohup rm -rf -- "$1" >/dev/null 2>&1 </dev/null &
