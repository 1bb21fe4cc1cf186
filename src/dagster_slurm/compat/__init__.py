"""Code that was written for dagster-slurm 1.22: its names, its module paths, and the arguments that it gives."""
