"""Runs whose processes have died: found by their leases, marked, and finished by a retry that reattaches."""

from __future__ import annotations

from dagster_slurm.reconcile.calls import reconcile_orphaned_slurm_runs
from dagster_slurm.reconcile.decision import ReconciledRun
from dagster_slurm.reconcile.runs import Plan, reconciled_runs
from dagster_slurm.reconcile.start import Code

__all__ = ["Code", "Plan", "ReconciledRun", "reconcile_orphaned_slurm_runs", "reconciled_runs"]
