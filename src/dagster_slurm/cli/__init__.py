"""The command line of dagster-slurm."""

from __future__ import annotations

from dagster_slurm.cli.main import main

__all__ = ["main"]
