"""A real Slurm cluster on one Debian machine, for trying and testing; all of it is in `dagster_slurm_sandbox`."""

from __future__ import annotations

from dagster_slurm_sandbox import LoginNode, Sandbox, SandboxConfig, SandboxStatus, install_packages, missing_packages

__all__ = ["LoginNode", "Sandbox", "SandboxConfig", "SandboxStatus", "install_packages", "missing_packages"]
