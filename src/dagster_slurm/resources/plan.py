"""What `compute.run` would do, found out without doing it: what is rendered, and what the cluster is asked."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from dagster import build_resources

from dagster_slurm.job.handle import LaunchKey
from dagster_slurm.launchers import script_here
from dagster_slurm.pipes.local import place_here
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources.call import Arguments, Call
from dagster_slurm.resources.job_plan import JobPlan, PlannedFile, PlannedUpload
from dagster_slurm.resources.plan_contents import Contents, Tasks
from dagster_slurm.resources.plan_for_cluster import PlanForCluster
from dagster_slurm.resources.planned_settings import settings_of
from dagster_slurm.staging.on_this_machine import used_in_place

if TYPE_CHECKING:
    from dagster_slurm.resources.compute import ComputeResource

_RUN_ID = "RUN_ID"


def job_plan(resource: ComputeResource, step: Step | None, arguments: Arguments, tasks: Tasks | None = None) -> JobPlan:
    """What a call would do.

    Args:
        resource: Whose call it is.
        step: The step; None outside of one.
        arguments: What it is called with.
        tasks: The partitions, for `run_partitions`.

    Raises:
        InvalidRequestError: As `run`.
        ConfigurationError: As `run`.
        TransportError: The cluster cannot be reached.
        SubmissionRejectedError: Slurm would not take the job.
    """
    if step is not None:
        return _planned(resource, step, arguments, tasks)
    # Within a run, Dagster has put the values of environment variables into the resource; here it is done now.
    with build_resources({"compute": resource}) as ready:
        return _planned(ready.compute, step, arguments, tasks)


def _planned(resource: ComputeResource, step: Step | None, arguments: Arguments, tasks: Tasks | None) -> JobPlan:
    call = Call(resource, step, arguments)
    if resource.mode == "local":
        return _plan_here(call, arguments, tasks)
    job = call.job()
    there = PlanForCluster(
        call.slurm().connect().cluster, job, Contents.of(job.work, tasks), _key(step, job.name, tasks), tasks
    )
    return there.plan(
        sources=call.request()[1],
        settings=settings_of(call, arguments, resource),
        max_node_hours=resource.max_node_hours,
    )


def _plan_here(call: Call, arguments: Arguments, tasks: Tasks | None) -> JobPlan:
    work = call.work_here()
    contents = Contents.of(work, tasks)
    directory = "/tmp/dagster-slurm-XXXXXXXX"  # noqa: S108 - it stands for what tempfile makes
    plan = work.plan(work.payload, place_here(sys.executable)).in_scratch(contents.staging.scratch)
    inputs = contents.staging.inputs
    files = [PlannedFile(name, path.stat().st_size, is_there=False) for name, path in inputs.files.items()]
    files += [
        PlannedFile(f"{name} ({used_in_place(path)})", None, is_there=True) for name, path in inputs.remote.items()
    ]
    return JobPlan(
        mode="local",
        title=f"{work.payload.program} on this machine",
        host=os.uname().nodename,
        directory=directory,
        script=f"{script_here(plan, directory)}\n",
        settings=settings_of(call, arguments, None),
        uploads=(*contents.uploads(), *([PlannedUpload("inputs", tuple(files))] if files else [])),
        environment=f"this machine's {sys.executable}",
        variables=tuple(sorted(work.extra_env or {})),
        extras=tuple(sorted(work.extras or {})),
        tasks=tasks.count if tasks else None,
        start_reason="it would be started at once",
    )


def _key(step: Step | None, name: str | None, tasks: Tasks | None) -> LaunchKey:
    call = f"{name or '0'}{'.array0' if tasks else ''}"
    if step is None:
        return LaunchKey(_RUN_ID, "step", (), call)
    return LaunchKey(_RUN_ID, step.key, step.partition_keys or (), call)
