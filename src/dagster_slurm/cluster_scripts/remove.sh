# shellcheck shell=sh
# remove.sh LAUNCH...: remove launches with what they have adopted, and the directories of their Dagster runs if those are
# empty then, without keeping anybody waiting.
# shellcheck disable=SC2016
nohup sh -c '
    # A payload may have made directories that even their owner may not write to.
    remove() { rm -rf -- "$1" || { chmod -R u+rwX -- "$1"; rm -rf -- "$1"; }; }
    for launch in "$@"; do
        cd -- "$launch" || continue
        for attempt in *; do
            if [ -e "$attempt/asset" ] && read -r asset <"$attempt/asset"; then
                latest=$(readlink -- "../../../assets/$asset")
                [ "$latest" != "../runs/${launch##*/runs/}/$attempt" ] || rm -f -- "../../../assets/$asset"
            fi
            [ -L "$attempt" ] || continue
            target=$(readlink -- "$attempt") || continue
            case $target in ../../?*/?*/?*) ;; *) continue ;; esac
            adopted=${target%/*}
            remove "$adopted" && rmdir -- "${adopted%/*}"
        done
        cd ..
        remove "$launch" && rmdir -- "${launch%/*}"
    done
' sh "$@" >/dev/null 2>&1 </dev/null &
