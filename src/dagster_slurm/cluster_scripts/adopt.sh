# shellcheck shell=sh
# adopt.sh LAUNCH ATTEMPT TARGET: make another launch's attempt this one's. Status 1: the attempt is there already.
mkdir -p -- "$1" || exit 74
ln -sT -- "$3" "$1/$2" 2>/dev/null || [ "$(readlink -- "$1/$2")" = "$3" ]
