# shellcheck shell=sh
# remove.sh LAUNCH: remove a launch with what it has adopted, and the directories of their Dagster runs if those are empty
# then, without keeping anybody waiting.
# shellcheck disable=SC2016
nohup sh -c '
    # A payload may have made directories that even their owner may not write to.
    remove() { rm -rf -- "$1" || { chmod -R u+rwX -- "$1"; rm -rf -- "$1"; }; }
    cd -- "$1" || exit
    for attempt in *; do
        if [ -e "$attempt/asset" ] && read -r asset <"$attempt/asset"; then
            latest=$(readlink -- "../../../assets/$asset")
            [ "$latest" != "../runs/${1##*/runs/}/$attempt" ] || rm -f -- "../../../assets/$asset"
        fi
        target=$(readlink -- "$attempt") || continue
        case $target in ../../?*/?*/?*) ;; *) continue ;; esac
        adopted=${target%/*}
        remove "$adopted" && rmdir -- "${adopted%/*}"
    done
    cd ..
    remove "$1" && rmdir -- "${1%/*}"
' sh "$1" >/dev/null 2>&1 </dev/null &
