"""Slurm as pure functions over frozen values: requests, commands, and what their output means."""
