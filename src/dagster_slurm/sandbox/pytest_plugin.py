"""The fixture `sandbox` for users: `pytest_plugins = ["dagster_slurm.sandbox.pytest_plugin"]`."""

from __future__ import annotations

from dagster_slurm_sandbox.pytest_plugin import (
    config_for_this_worker,
    sandbox,
    sandbox_config,
    skip_where_it_cannot_run,
)

__all__ = ["config_for_this_worker", "sandbox", "sandbox_config", "skip_where_it_cannot_run"]
