# shellcheck shell=sh
# remove.sh LAUNCH...: remove launches with what they have adopted, and the directories of their Dagster runs if those are
# empty then, without keeping anybody waiting.
# shellcheck disable=SC2016
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
