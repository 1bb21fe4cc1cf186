# shellcheck shell=sh
# data_place.sh WORK DATA: three lines on stdin for each input: `content` or `path`, its SHA-256 or its path, and its name in
# WORK. What is there is left as it is: it was put there by an earlier try, and its job may be running.
work=$1 data=$2
mkdir -p -- "$work" && cd -- "$work" || exit 74
while IFS= read -r kind && IFS= read -r target && IFS= read -r name; do
    [ ! -e "$name" ] || continue
    case $name in */*) mkdir -p -- "${name%/*}" || exit 74 ;; esac
    if [ "$kind" = content ]; then
        # Gone since it was asked for.
        [ -f "$data/$target" ] || exit 65
        ln -T -- "$data/$target" "$name" 2>/dev/null || ln -s -T -- "$data/$target" "$name" || [ -e "$name" ] || exit 74
    else
        ln -s -T -- "$target" "$name" || [ -e "$name" ] || exit 74
    fi
done
