# shellcheck shell=sh
# data_read.sh DIRECTORY: the content of each file named on stdin, one behind the other; names end with a NUL.
cd -- "$1" && xargs -0 -r cat --
