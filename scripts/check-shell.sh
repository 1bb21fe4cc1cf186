#!/bin/sh
# Run shellcheck over every shell script of the repository, also those that only run on a cluster.
set -eu
cd -- "$(dirname -- "$0")/.."

command -v shellcheck >/dev/null 2>&1 || {
    echo 'check-shell: shellcheck is missing. Install it (Debian: apt-get install shellcheck).' >&2
    exit 1
}

# Every script ends in .sh, but for what is a command by its name. What was recorded is as it was.
find src scripts tests examples benchmarks -path tests/recorded -prune -o -name '*.sh' -exec shellcheck -- {} +
shellcheck -- .ci/run
echo 'All shell scripts pass shellcheck.'
