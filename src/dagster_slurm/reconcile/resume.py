"""`python -m dagster_slurm.reconcile.resume`: records the retry of a run and executes it, in this process.

What to retry is read from stdin as JSON, see `start`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from dagster import DagsterInstance

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.pipes.dagster_private import (
    create_retry,
    execute_recorded_run,
    instance_from,
    load_job,
    tags_of_retry,
)
from dagster_slurm.pipes.leases import take_lease
from dagster_slurm.reconcile.evidence import retry_process_tag
from dagster_slurm.reconcile.marking import RETRY_PENDING_TAG, note_retry_made


def main() -> None:
    """Do what stdin asks for."""
    asked = json.loads(sys.stdin.read())
    with instance_from(asked["instance"]) as instance:
        resume(instance, asked)


def resume(instance: DagsterInstance, asked: dict[str, Any]) -> None:
    """Record the retry, unless somebody has, and execute it."""
    parent = instance.get_run_by_id(asked["parent_run_id"])
    if parent is None:
        raise ConfigurationError(f"There is no run {asked['parent_run_id']} any more")
    job = load_job(parent, options=asked["code"])
    tags = {key: value for key, value in tags_of_retry(instance, parent).items() if key != RETRY_PENDING_TAG}
    run = create_retry(instance, parent, job, run_id=asked["run_id"], tags={**tags, **retry_process_tag(parent.run_id)})
    if run is None:
        return
    note_retry_made(instance, parent)
    take_lease(instance, run)
    execute_recorded_run(instance, run, job)


if __name__ == "__main__":
    main()
