"""The ways to do what a call asks for: as Slurm jobs, and on this machine."""
