"""Components of Dagster: assets whose payloads run on Slurm, and the resources they run with, written in YAML."""

from dagster_slurm.components.hetjob import SlurmHetJobComponent
from dagster_slurm.components.resources import SlurmResourcesComponent
from dagster_slurm.components.script import SlurmScriptComponent

__all__ = ["SlurmHetJobComponent", "SlurmResourcesComponent", "SlurmScriptComponent"]
