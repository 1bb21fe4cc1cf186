# shellcheck shell=sh
# shell.sh: the login shell, what it prints when it should print nothing, and the programs that are needed here.
shell=${SHELL:-/bin/sh}
printf 'shell %s\n' "$shell"
# bash reads .bashrc for ssh if it is not below another shell (bash(1), INVOCATION; SHLVL).
printf 'noise %s\n' "$(
    unset SHLVL
    timeout 10 "$shell" -c : </dev/null 2>/dev/null | wc -c
)"
# shellcheck disable=SC2016
printf 'bash %s\n' "$(bash -c 'printf %s "$BASH_VERSION"' 2>/dev/null)"
for program in bash tar sha256sum setsid stat head tail mktemp; do
    command -v "$program" >/dev/null 2>&1 || printf 'missing %s\n' "$program"
done
