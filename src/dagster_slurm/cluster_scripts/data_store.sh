# shellcheck shell=sh
# data_store.sh DATA NAME: what has arrived as DATA/.incoming/NAME, a file named by its SHA-256 or a directory of such files,
# becomes content. Another process may be at the same. Prints the names of those that are something else, and removes
# them.
cd -- "$1/.incoming" || exit 74
store() {
    [ -f "$1" ] || return 0
    actual=$(sha256sum <"$1") || return
    if [ "${actual%% *}" != "${1##*/}" ]; then
        printf '%s\n' "${1##*/}"
        rm -f -- "$1"
        return 0
    fi
    chmod 0400 -- "$1" && mv -f -T -- "$1" "../${1##*/}" && return
    # The other process was faster.
    [ -f "../${1##*/}" ]
}
if [ -d "$2" ]; then
    for file in "$2"/*; do
        store "$file" || exit 74
    done
    rm -rf -- "$2"
else
    store "$2" || exit 74
fi
