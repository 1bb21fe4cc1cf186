"""On the cluster: makes the virtual environment `env` in the working directory, out of wheels.

    PYTHON -I install_wheels.py PARTS WHEEL...

PARTS is the directory of the wheels, and of PyPA's installer as one file. Needs no more than the standard library of
the interpreter that runs it, whose environment this becomes.
"""

import os
import sys
import sysconfig
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PARTS = Path(sys.argv[1])
ENVIRONMENT = Path.cwd() / "env"
# Finds the interpreter beside itself: a path of its own would end an environment that is moved, and a long one
# does not fit behind `#!` (execve(2)).
RELOCATABLE = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
"""
_LONG = b"'''exec' "

sys.path.insert(0, str(PARTS / "installer.zip"))

from installer import install  # noqa: E402 - from the file that was sent along
from installer.destinations import SchemeDictionaryDestination  # noqa: E402
from installer.sources import WheelFile  # noqa: E402


def install_wheel(name: str) -> None:
    """Install one wheel."""
    base = str(ENVIRONMENT)
    with WheelFile.open(PARTS / name) as wheel:
        paths = sysconfig.get_paths("posix_prefix", {"base": base, "platbase": base})
        headers = str(ENVIRONMENT / "include" / "site" / wheel.distribution)
        python = str(ENVIRONMENT / "bin" / "python")
        destination = SchemeDictionaryDestination({**paths, "headers": headers}, python, "posix")
        install(wheel, destination, {"INSTALLER": b"dagster-slurm\n"})


def make_relocatable(script: Path) -> None:
    """Let a script find its interpreter beside itself."""
    first, newline, rest = script.read_bytes().partition(b"\n")
    if newline and (first.startswith(b"#!" + os.fsencode(ENVIRONMENT)) or rest.startswith(_LONG)):
        body = rest.split(b"' '''\n", 1)[1] if rest.startswith(_LONG) else rest
        script.write_bytes(RELOCATABLE + body)


venv.EnvBuilder(symlinks=True, with_pip=False).create(ENVIRONMENT)
with ThreadPoolExecutor(4) as pool:
    list(pool.map(install_wheel, sys.argv[2:]))
for entry in (ENVIRONMENT / "bin").iterdir():
    if entry.is_file() and not entry.is_symlink():
        make_relocatable(entry)
