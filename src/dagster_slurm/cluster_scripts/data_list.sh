# shellcheck shell=sh
# data_list.sh DIRECTORY: size, time of the last change and name of every file below it, links to files as well; each ends with
# a NUL. To open a directory makes NFS look again (nfs(5), close-to-open).
cd -- "$1" 2>/dev/null || exit 0
find . -xtype f -exec stat -L --printf '%s %Y %n\0' -- {} +
