"""`python -m dagster_slurm.cli`: the command, without its entry point on the PATH."""

from dagster_slurm.cli import main

main()
