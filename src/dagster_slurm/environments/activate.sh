# shellcheck shell=bash
# Sourced: enters the environment that lies beside this file, wherever that is.
VIRTUAL_ENV=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/env
PATH=$VIRTUAL_ENV/bin:$PATH
export VIRTUAL_ENV PATH
unset PYTHONHOME
