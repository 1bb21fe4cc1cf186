# shellcheck shell=sh
# space.sh DIRECTORY: file system, free space, inodes and quota there, or of the nearest directory that exists.
directory=$1
until [ -d "$directory" ]; do
    directory=${directory%/*}
    directory=${directory:-/}
done
printf 'directory %s\n' "$directory"
df -PTk -- "$directory" | tail -n 1 | sed 's/^/blocks /'
df -Pi -- "$directory" 2>/dev/null | tail -n 1 | sed 's/^/inodes /'
# Both ask servers that may not answer; theirs is not a reason to wait.
if command -v quota >/dev/null 2>&1; then
    timeout 10 quota -w 2>/dev/null | sed 's/^/quota /'
fi
if command -v lfs >/dev/null 2>&1; then
    timeout 10 lfs quota -u "$(id -un)" "$directory" 2>/dev/null | sed 's/^/quota /'
fi
