# shellcheck shell=sh
# login.sh: who and where we are.
printf 'user %s\n' "$(id -un)"
printf 'host %s\n' "$(uname -n)"
printf 'system %s\n' "$(uname -sr)"
printf 'home %s\n' "$HOME"
