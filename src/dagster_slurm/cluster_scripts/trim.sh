# shellcheck shell=sh
# trim.sh DIRECTORY: of a failed run, keep the script, the status, Slurm's log and the end of stderr.
cd -- "$1" || exit 0
for file in log/stderr.* elements/*/log/stderr.*; do
    [ -f "$file" ] || continue
    tail -n 1000 -- "$file" >"$file.end" && mv -- "$file.end" "$file"
done
rm -rf -- work pipes env.sh log/stdout.* log/messages* log/usage.*
for place in elements/*/; do
    [ ! -d "$place" ] || (cd -- "$place" && rm -rf -- work pipes env.sh log/stdout.* log/messages* log/usage.*)
done
