# shellcheck shell=sh
# clean.sh BASE: stdin names what is left over, one a line; each is removed if it is still as it was when it was listed.
#   launch RUN/KEY SHA256   a launch, and what `state` below printed then
#   part RUN/KEY/NAME       a half-made upload that nobody has written to for a day
#   link NAME               a link in assets/ to what is not there any more
#   empty RUN[/KEY]         a directory with nothing in it
# Output: "removed LINE" or "kept LINE" for each line; why something could not be removed on stderr.
cd -- "$1" || exit 74

# What a process changes that goes on with the launch in this directory: its attempts, and the claims in them.
state() {
    find . -mindepth 1 -maxdepth 4 -path './*/*' ! -path './[0-9]*/claim*' -prune -o -printf '%p %l\n' |
        LC_ALL=C sort | sha256sum
}

# Take the place of the next try to submit, so that nobody can submit any more. The place is looked for before the state is
# compared: a claim that comes in between is in the way.
close_unless_changed() {
    newest=-1 next=0
    for name in *; do
        case $name in *[!0-9]*) continue ;; esac
        [ "$name" -le "$newest" ] || newest=$name
    done
    while [ -d "$newest/claim/$next" ]; do next=$((next + 1)); done
    now=$(state)
    [ "${now%% *}" = "$1" ] || return 1
    # Without an attempt, and in one that was adopted, nobody submits.
    if [ ! -d "$newest" ] || [ -L "$newest" ]; then return 0; fi
    mkdir -p "$newest/claim" || return 1
    ln -sT closed "$newest/claim/$next" 2>/dev/null || [ -L "$newest/claim/$next" ]
}

# Directories that the payload made may be read-only.
remove_tree() {
    rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwX -- "$1" && rm -rf -- "$1"; }
}

# In a subshell: it goes to that directory. What is only half removed is a half-made upload by its name.
remove_launch() (
    cd -- "runs/$1" 2>/dev/null || return 0
    close_unless_changed "$2" || return 1
    for attempt in *; do
        case $attempt in *[!0-9]*) continue ;; esac
        if [ ! -L "$attempt" ] && read -r asset 2>/dev/null <"$attempt/asset"; then
            latest=$(readlink -- "../../../assets/$asset")
            [ "$latest" != "../runs/$1/$attempt" ] || rm -f -- "../../../assets/$asset"
        fi
        mv -T -- "$attempt" "$attempt.part.$$" || return 1
    done
    [ ! -e checkpoint ] || mv -T -- checkpoint "checkpoint.part.$$" || return 1
    for part in *.part.* .dagster-slurm.*.part; do
        remove_tree "$part" || return 1
    done
    remove_empty "../../$1" || :
)

# By the clock of the files, which is not this machine's.
remove_part() {
    : >".now.$$" && now=$(stat -c %Y -- ".now.$$") && rm -f -- ".now.$$" || return 1
    [ -n "$(find "runs/$1" -maxdepth 0 ! -newermt "@$((now - 86400))" 2>/dev/null)" ] || return 1
    remove_tree "runs/$1" && { remove_empty "runs/${1%/*}" || :; }
}

# A directory in which something new has appeared stays, and so does that of the run for other launches.
remove_empty() {
    rmdir -- "$1" 2>/dev/null || return 1
    case $1 in */*/*) rmdir -- "${1%/*}" 2>/dev/null || : ;; esac
}

while read -r kind path expected; do
    case $kind in
    launch) remove_launch "$path" "$expected" ;;
    part) remove_part "$path" ;;
    link) [ -L "assets/$path" ] && [ ! -e "assets/$path" ] && rm -f -- "assets/$path" ;;
    empty) remove_empty "runs/$path" ;;
    *) false ;;
    esac </dev/null && outcome=removed || outcome=kept
    printf '%s %s %s\n' "$outcome" "$kind" "$path"
done
exit 0
