"""A cluster over one connection: its commands, and how work lies and stands on it."""

from __future__ import annotations

from dagster_slurm.cluster.slurm_cluster import ClusterFacts, FilePosition, SlurmCluster

__all__ = ["ClusterFacts", "FilePosition", "SlurmCluster"]
