# shellcheck shell=sh
# data_sums.sh DIRECTORY: the SHA-256 of each file named on stdin, in their order; names end with a NUL.
cd -- "$1" && xargs -0 -r sha256sum --
