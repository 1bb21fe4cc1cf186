"""Dagster Pipes: the payload as a process of this machine or as a Slurm job."""
