"""A real Slurm cluster on one Debian machine, for trying and testing; not for production."""

from __future__ import annotations

from dagster_slurm_sandbox.config import SandboxConfig
from dagster_slurm_sandbox.login_node import LoginNode
from dagster_slurm_sandbox.programs import install_packages, missing_packages
from dagster_slurm_sandbox.sandbox import Sandbox, SandboxStatus

__all__ = ["LoginNode", "Sandbox", "SandboxConfig", "SandboxStatus", "install_packages", "missing_packages"]
