"""Install the Debian packages of the sandbox cluster, where that can be done; the list of them is the sandbox's.

With `--trials` also those that only tests need: login shells, a module that asks for one-time codes, PostgreSQL, PMIx,
Java, and from PyPI, into this environment, the package of Spark; with `--browser` a browser.

It never fails: the demo says what it left out and why, and the tests on the cluster say why they did not run.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm.sandbox import install_packages, missing_packages
from dagster_slurm_sandbox.programs import check_machine


def main() -> None:
    """Install what is missing."""
    trials, browser = (option in sys.argv[1:] for option in ("--trials", "--browser"))
    if trials:
        install_spark()
    try:
        check_machine()
    except SandboxError:
        return
    missing = missing_packages(trials=trials, launchers=trials, records=trials, browser=browser)
    if missing:
        print(f"Installing Debian packages for the sandbox cluster: {' '.join(missing)} ...", flush=True)
        try:
            install_packages(trials=trials, launchers=trials, records=trials, browser=browser)
        except SandboxError as error:
            print(f"This did not work: {error}", file=sys.stderr)


def install_spark() -> None:
    """The optional dependency `spark`, into the environment of this Python."""
    if importlib.util.find_spec("pyspark"):
        return
    print("Installing pyspark ...", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--editable", ".[spark]"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], check=False)
    if done.returncode != 0:
        print("This did not work: the tests of Spark on this machine fail", file=sys.stderr)


if __name__ == "__main__":
    main()
