"""The jobs of all runs, and what they have left behind: `dagster-slurm jobs` and `dagster-slurm clean`."""

from __future__ import annotations
