"""The lookouts on the Slurm cluster that `SLURM_*` names: `dagster dev -d examples -m lookouts.slurm`."""

from __future__ import annotations

import os

from dagster_slurm import BashLauncher, ComputeResource, SlurmResource
from lookouts.assets import definitions

defs = definitions(
    ComputeResource(
        mode="slurm",
        slurm=SlurmResource.from_env(),
        default_launcher=BashLauncher(),
        pre_deployed_env_path=os.environ.get("LOOKOUTS_ENVIRONMENT"),
    )
)
