# shellcheck shell=sh
# present.sh DIRECTORY PATH...: of the names on stdin, one a line, prints `there NAME SIZE` for those of files in DIRECTORY;
# then `missing PATH` for each PATH that is not there. Changes nothing.
directory=$1
shift
(cd -- "$directory" 2>/dev/null && xargs -r stat -c 'there %n %s' -- 2>/dev/null)
for path; do
    [ -e "$path" ] || printf 'missing %s\n' "$path"
done
exit 0
