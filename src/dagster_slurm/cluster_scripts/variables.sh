# shellcheck shell=sh
# variables.sh NAME...: variables of the login, one "NAME value" a line; what is not set is left out. Many sites set theirs in the
# profile alone, which the shell of our commands has not read.
for name; do
    value=$(printenv "$name") || {
        # A profile may print something.
        value=$(bash -lc 'printf "\n=%s\n" "$(printenv "$1")"' bash "$name" 2>/dev/null </dev/null | tail -n 1)
        value=${value#=}
    }
    [ "$name" != USER ] || value=${value:-$(id -un)}
    [ -z "$value" ] || printf '%s %s\n' "$name" "$value"
done
