"""What Dagster and users are shown of the package's version and of its kind of assets."""

import subprocess
import sys
from importlib.metadata import version

import dagster_slurm
from dagster_slurm.version import __version__


def test_it_is_that_of_what_is_installed() -> None:
    assert dagster_slurm.__version__ == __version__ == version("dagster-slurm")


def test_dagster_lists_it_beside_its_own_integrations() -> None:
    program = (
        "from dagster_slurm import ComputeResource; from dagster_shared.libraries import DagsterLibraryRegistry; "
        "print(DagsterLibraryRegistry.get()['dagster-slurm'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == __version__
