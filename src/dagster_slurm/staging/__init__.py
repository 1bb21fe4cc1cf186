"""Data that goes into a job's working directory, and out of it. ADR 9 says why it is done so."""

from dagster_slurm.staging.plan import DataOptions, Inputs, Outputs, Staging, plan_staging
from dagster_slurm.staging.remote_path import RemotePath

__all__ = ["DataOptions", "Inputs", "Outputs", "RemotePath", "Staging", "plan_staging"]
