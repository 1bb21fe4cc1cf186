"""What one `compute.run` call asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagster_slurm.environments import Provider
from dagster_slurm.job.retrying import Chain, RetryRules
from dagster_slurm.launchers import Payload, Planner
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging import Staging
from dagster_slurm.transport import TreeEntry


@dataclass(frozen=True)
class Order:
    """What is to be run, checked as far as this machine can tell.

    Args:
        payload: What to start.
        request: What to ask Slurm for.
        plan: How to start it.
        files: What lies in its working directory.
        extras: Values for the payload, found in its Pipes context.
        extra_env: Its environment variables.
        environment: What it runs in.
        force_env_push: Whether its environment is installed anew.
        rules: Which ends are tried again within the call; None for none.
        chain: Whether, and when, the work goes on in a further job.
        staging: What it reads and leaves.
    """

    payload: Payload
    request: JobRequest
    plan: Planner
    files: tuple[TreeEntry, ...]
    extras: Mapping[str, Any] | None
    extra_env: Mapping[str, str] | None
    environment: Provider
    force_env_push: bool
    rules: RetryRules | None
    chain: Chain
    staging: Staging
