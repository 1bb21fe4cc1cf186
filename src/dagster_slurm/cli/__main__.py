"""`python -m dagster_slurm.cli`: the command, without its entry point on the PATH."""

from dagster_slurm.cli.main import main

main()
