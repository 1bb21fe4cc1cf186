"""Install the Debian packages of the sandbox cluster, where that can be done; the list of them is the sandbox's."""

from __future__ import annotations

import sys

from dagster_slurm.errors import SandboxError
from dagster_slurm.sandbox import install_packages, missing_packages
from dagster_slurm.sandbox.programs import check_machine


def main() -> int:
    """Install what is missing. Where no sandbox can run, say so and leave it to the caller to do without."""
    try:
        check_machine()
    except SandboxError as error:
        print(f"No sandbox cluster here: {error.message}.")
        return 0
    missing = missing_packages()
    if missing:
        print(f"Installing Debian packages for the sandbox cluster: {' '.join(missing)} ...", flush=True)
        install_packages()
    return 0


if __name__ == "__main__":
    sys.exit(main())
