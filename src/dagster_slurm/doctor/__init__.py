"""`dagster-slurm doctor`: checks a set-up step by step, and says what is wrong and what to do."""

from dagster_slurm.doctor.finding import Finding, Status
from dagster_slurm.doctor.settings import Asked, Settings
from dagster_slurm.doctor.steps import STEPS, diagnose
from dagster_slurm.doctor.world import World

__all__ = ["STEPS", "Asked", "Finding", "Settings", "Status", "World", "diagnose"]
