"""The lookouts on this machine: `dagster dev -d examples -m lookouts.local`."""

from __future__ import annotations

from dagster_slurm import BashLauncher, ComputeResource
from lookouts.assets import definitions

defs = definitions(ComputeResource(mode="local", default_launcher=BashLauncher()))
