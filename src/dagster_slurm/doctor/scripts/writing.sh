# shellcheck shell=sh
# writing.sh BASE: do there what a run does: make directories, write, rename, link, remove. Status 74: it failed.
# What it makes, it removes, BASE included if it was not there.
made=
directory=$1
until [ -d "$directory" ] || [ -z "$directory" ]; do
    made="$made/.."
    directory=${directory%/*}
done
probe=$1/.dagster-slurm-doctor.$$
clean_up() {
    rm -rf -- "$probe"
    while [ -n "$made" ]; do
        rmdir -- "$base" 2>/dev/null || break
        base=${base%/*}
        made=${made%/..}
    done
}
base=$1
trap clean_up EXIT
mkdir -p -- "$1" && mkdir -- "$probe" || exit 74
head -c 65536 /dev/zero >"$probe/part" && mv -T -- "$probe/part" "$probe/whole" || exit 74
ln -sT -- 1 "$probe/gate" && chmod 0600 "$probe/whole" || exit 74
printf 'mode %s\n' "$(stat -c %a -- "$probe")"
printf 'file %s\n' "$(stat -c %a -- "$probe/whole")"
printf 'base %s %s\n' "$(stat -c %a -- "$1")" "$(stat -c %U -- "$1")"
rm -r -- "$probe" || exit 74
