#!/bin/sh
# Type-check the package, the scripts and the example; payloads are programs of their own, on a path of their own.
set -eu
cd -- "$(dirname -- "$0")/.."
mypy=$PWD/.venv/bin/mypy

# In one run: Dagster's own modules are read once.
MYPYPATH=src:examples "$mypy" --explicit-package-bases src/dagster_slurm src/dagster_slurm_sandbox scripts/*.py examples/*/*.py
for payloads in examples/*/payloads; do
    # An example's payloads may be of shell.
    (cd "$payloads" && set -- *.py && if [ -e "$1" ]; then "$mypy" --config-file= --strict -- "$@"; fi)
done
