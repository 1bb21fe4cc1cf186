"""Data that goes into a job's working directory, and out of it. ADR 9 says why it is done so."""

from dagster_slurm.staging.plan import DataOptions, Inputs, Outputs, RemotePath, Staging, plan_staging

__all__ = ["DataOptions", "Inputs", "Outputs", "RemotePath", "Staging", "plan_staging"]
