# shellcheck shell=sh
# Verbs: what becomes of launches once they were made.

# adopt LAUNCH ATTEMPT TARGET: make another launch's attempt this one's. Status 1: the attempt is there already.
adopt() {
    mkdir -p -- "$1" || exit 74
    ln -sT -- "$3" "$1/$2" 2>/dev/null || [ "$(readlink -- "$1/$2")" = "$3" ]
}

# close ATTEMPT GENERATION OUTCOME: let nobody submit in this attempt any more, by taking the place of the next try to
# submit, and note how its job ended if OUTCOME is not empty.
# Status 1: somebody has claimed that try already. An attempt that is not there needs no closing.
close() {
    cd -- "$1" 2>/dev/null || exit 0
    mkdir -p claim || exit 74
    if [ -n "$3" ]; then
        printf '%s\n' "$3" >"outcome.part.$$" && mv -- "outcome.part.$$" outcome.json || exit 74
    fi
    ln -sT closed "claim/$2" 2>/dev/null || [ -L "claim/$2" ]
}

# revoke CLAIM: take the gate, if it is free, so that no job of this try to submit runs its payload any more.
# Output: who owns the gate now.
revoke() {
    mkdir -p -- "$1" || exit 74
    ln -sT revoked "$1/gate" 2>/dev/null
    readlink -- "$1/gate" || exit 74
}

# withdraw ATTEMPT [PROTOCOL]: take every gate that is free, so that no job of this attempt can run its payload any more, and
# close it. With PROTOCOL a request on its way may make the attempt after this: it finds one that is closed, of that version.
# Output, of each try to submit: "GENERATION gate OWNER", and "GENERATION said LINE" for each line that sbatch printed.
withdraw() {
    if [ -n "${2-}" ]; then
        # Twice: what comes takes the place of a directory that is empty.
        mkdir -p -- "$1/claim" 2>/dev/null || mkdir -p -- "$1/claim" || exit 74
        [ -e "$1/protocol" ] || printf '%s\n' "$2" >"$1/protocol"
    fi
    cd -- "$1" 2>/dev/null || exit 0
    mkdir -p claim
    next=0
    while ! ln -sT closed "claim/$next" 2>/dev/null; do
        [ ! -L "claim/$next" ] || break
        claim=claim/$next
        [ -d "$claim" ] || exit 74
        ln -sT revoked "$claim/gate" 2>/dev/null
        printf '%s gate %s\n' "$next" "$(readlink -- "$claim/gate")"
        # shellcheck disable=SC1003 # a command of sed: a line break where the last line has none
        [ ! -s "$claim/stdout" ] || sed -e "s/^/$next said /" -e '$a\' "$claim/stdout"
        next=$((next + 1))
    done
}

# cancel_step ATTEMPT NUMBER: have the dispatcher of a session end the step that it was asked for with that number. A session that
# has ended, or whose directory is gone, has ended its steps.
cancel_step() {
    cd -- "$1" 2>/dev/null || exit 0
    read -r allocation _ <session || exit 0
    allocation=${1%/runs/*}/runs/$allocation
    [ -e "$allocation/work/mail.sh" ] || exit 0
    sh "$allocation/work/mail.sh" "$allocation" say cancel "$2"
    status=$?
    [ "$status" != 76 ] || status=0
    exit "$status"
}

# trim DIRECTORY: of a failed run, keep the script, the status, Slurm's log and the end of stderr.
trim() {
    cd -- "$1" || exit 0
    for file in log/stderr.* elements/*/log/stderr.*; do
        [ -f "$file" ] || continue
        tail -n 1000 -- "$file" >"$file.end" && mv -- "$file.end" "$file"
    done
    for place in . elements/*/; do
        [ ! -d "$place" ] || (cd -- "$place" && rm -rf -- work pipes env.sh log/stdout.* log/messages* log/usage.*)
    done
}

# remove LAUNCH...: remove launches with what they have adopted, and the directories of their Dagster runs if those are
# empty then, without keeping anybody waiting.
# shellcheck disable=SC2016
remove() {
    nohup sh -c '
        # A payload may have made directories that even their owner may not write to.
        remove() { rm -rf -- "$@" || { chmod -R u+rwX -- "$@"; rm -rf -- "$@"; }; }
        # Of every launch by itself: one that is gone already, or is not ours, keeps none of the others.
        for launch in "$@"; do
            cd -- "$launch" || continue
            for attempt in *; do
                if [ -e "$attempt/asset" ] && read -r asset <"$attempt/asset"; then
                    # The same file: the link leads to this attempt.
                    latest=../../../assets/$asset
                    if [ "$latest" -ef "$attempt" ]; then rm -f -- "$latest"; fi
                fi
                [ -L "$attempt" ] || continue
                target=$(readlink -- "$attempt") || continue
                case $target in ../../?*/?*/?*) ;; *) continue ;; esac
                adopted=${target%/*}
                remove "$adopted" && rmdir -- "${adopted%/*}"
            done
        done
        cd /
        remove "$@"
        for launch in "$@"; do
            run=${launch%/*}
            if [ "$run" != "$emptied" ]; then rmdir -- "$run"; fi
            emptied=$run
        done
    ' sh "$@" >/dev/null 2>&1 </dev/null &
}

# What a process changes that goes on with the launch in this directory: its attempts, and the claims in them.
state_of_launch() {
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
    now=$(state_of_launch)
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

# clean BASE: stdin names what is left over, one a line; each is removed if it is still as it was when it was listed.
#   launch RUN/KEY SHA256   a launch, and what `state_of_launch` printed then
#   part RUN/KEY/NAME       a half-made upload that nobody has written to for a day
#   link NAME               a link in assets/ to what is not there any more
#   empty RUN[/KEY]         a directory with nothing in it
# Output: "removed LINE" or "kept LINE" for each line; why something could not be removed on stderr.
clean() {
    cd -- "$1" || exit 74
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
}

# sizes BASE: stdin names directories within it, one a line. Output: "KIB TAB DIRECTORY" for each that is there.
sizes() {
    cd -- "$1" || exit 74
    tr '\n' '\0' | xargs -0 du -sk -- 2>/dev/null
    exit 0
}
