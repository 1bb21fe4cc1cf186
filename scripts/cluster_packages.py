"""Install the Debian packages of the sandbox cluster, where that can be done; the list of them is the sandbox's.

With `--trials` also those that only tests need: login shells, a module that asks for one-time codes, and PMIx.

It never fails: the demo says what it left out and why, and the tests on the cluster say why they did not run.
"""

from __future__ import annotations

import sys

from dagster_slurm.errors import SandboxError
from dagster_slurm.sandbox import install_packages, missing_packages
from dagster_slurm.sandbox.programs import check_machine


def main() -> None:
    """Install what is missing."""
    try:
        check_machine()
    except SandboxError:
        return
    trials = "--trials" in sys.argv[1:]
    missing = missing_packages(trials=trials, pmix=trials)
    if missing:
        print(f"Installing Debian packages for the sandbox cluster: {' '.join(missing)} ...", flush=True)
        try:
            install_packages(trials=trials, pmix=trials)
        except SandboxError as error:
            print(f"This did not work: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
