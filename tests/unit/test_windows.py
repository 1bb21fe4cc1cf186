"""What is said on systems that this package does not run on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dagster_slurm import refuse_windows


@pytest.mark.parametrize("platform", ["linux", "darwin", "cygwin"])
def test_systems_with_what_is_needed(platform: str) -> None:
    refuse_windows(platform)


def test_windows_is_told_in_one_sentence() -> None:
    """It was "No module named fcntl"."""
    with pytest.raises(ImportError, match="does not run on Windows itself: install it in WSL"):
        refuse_windows("win32")


def test_it_is_told_before_anything_is_imported() -> None:
    program = "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; import dagster_slurm"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("ImportError: dagster-slurm does not run on Windows itself")
