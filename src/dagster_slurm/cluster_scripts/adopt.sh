# shellcheck shell=sh
# adopt.sh LAUNCH ATTEMPT TARGET: make another launch's attempt this one's.
mkdir -p -- "$1" || exit 74
ln -sT -- "$3" "$1/$2" 2>/dev/null || [ -e "$1/$2" ]
