"""Shell files that a login node runs for `SlurmCluster` and `RunDirectory`."""
