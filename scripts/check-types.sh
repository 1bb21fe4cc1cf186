#!/bin/sh
# Type-check the package, the scripts and the example; payloads are programs of their own, on a path of their own.
set -eu
cd -- "$(dirname -- "$0")/.."
mypy=$PWD/.venv/bin/mypy

"$mypy"
# Dagster reads the annotation of an asset, and takes no type arguments there.
MYPYPATH=src:examples "$mypy" --allow-any-generics --explicit-package-bases scripts/*.py examples/*/*.py
for payloads in examples/*/payloads; do
    # An example's payloads may be of shell.
    (cd "$payloads" && set -- *.py && if [ -e "$1" ]; then "$mypy" --config-file= --strict -- "$@"; fi)
done
