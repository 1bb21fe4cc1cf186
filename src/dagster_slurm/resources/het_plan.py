"""What a call of `run_hetjob` would do: what the job is as a whole, and what each of its components is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.placement import placed
from dagster_slurm.environments import Activation
from dagster_slurm.job.het_script import OnFailure, het_scripts
from dagster_slurm.launchers import launch_in_job
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources.job_plan import JobPlan
from dagster_slurm.resources.plan import PlanForCluster, facts_of, job_plan, key_of, uploads_of
from dagster_slurm.run_directory import LaunchKey, RunDirectory
from dagster_slurm.slurm.hetjob import refuse_too_many, render_hetjob
from dagster_slurm.slurm.request import AUTO
from dagster_slurm.work.components import Components, in_component, partitions_of
from dagster_slurm.work.spec import WorkSpec

_WITH_OTHERS = "it begins with the others"


def het_plan(
    components: Components, step: Step, cluster: SlurmCluster | None, on_failure: OnFailure, most_hours: float | None
) -> JobPlan:
    """What would be done. One component alone is a job as any other.

    Args:
        components: All of the call.
        step: The step.
        cluster: Where; None for this machine.
        on_failure: What becomes of the others when one fails.
        most_hours: How many node-hours all may cost together.

    Raises:
        InvalidRequestError: As `run_hetjob`.
        TransportError: The cluster cannot be reached.
        SubmissionRejectedError: Slurm would not take the job.
    """
    if len(components) == 1:
        (component,) = components.values()
        return job_plan(component.spec, step, cluster)
    if cluster is None:
        return _plan_here({name: job_plan(each.spec, step, None) for name, each in components.items()})
    return _plan_on(cluster, {name: each.spec for name, each in components.items()}, step, on_failure, most_hours)


def _plan_here(parts: Mapping[str, JobPlan]) -> JobPlan:
    first = next(iter(parts.values()))
    title = f"{', '.join(parts)} on this machine"
    return JobPlan("local", title, os.uname().nodename, first.directory, "", components=parts)


def _plan_on(
    cluster: SlurmCluster, specs: Mapping[str, WorkSpec], step: Step, on_failure: OnFailure, most_hours: float | None
) -> JobPlan:
    requests = {
        name: placed(cluster, spec.request)[0] if spec.request.partition == AUTO else spec.request
        for name, spec in specs.items()
    }
    refuse_too_many(requests, *partitions_of(cluster))
    first = next(iter(specs.values()))
    key = key_of(step, replace(first, tasks=None))
    whole = _PlanOfWhole(cluster, first, key, requests)
    start, start_reason = whole.starts()
    plans = [_PlanOfComponent(cluster, spec, key, number) for number, spec in enumerate(specs.values())]
    parts = [each.plan(uploads_of(spec), facts_of(spec)) for each, spec in zip(plans, specs.values(), strict=True)]
    directory = key.first_attempt(cluster.base())
    script, beside = het_scripts(requests, [each.launch for each in plans], directory=directory, on_failure=on_failure)
    texts = {entry.name: entry.source.decode() for entry in beside if isinstance(entry.source, bytes)}
    components = {
        name: replace(part, max_node_hours=None, script=texts[f"elements/{number}/component.sh"])
        for number, (name, part) in enumerate(zip(specs, parts, strict=True))
    }
    hours = [part.node_hours for part in parts]
    return JobPlan(
        mode="slurm",
        title=f"{', '.join(specs)} on {cluster.host}",
        host=cluster.host,
        directory=directory.path,
        script=script,
        start=start,
        start_reason=start_reason,
        node_hours=None if None in hours else sum(each for each in hours if each is not None),
        max_node_hours=most_hours,
        warnings=whole.warnings,
        components=components,
    )


class _PlanOfWhole(PlanForCluster):
    """What Slurm says of the components together.

    Args:
        requests: What each asks for.
        arguments: As for `PlanForCluster`, for the first.
    """

    def __init__(self, cluster: SlurmCluster, spec: WorkSpec, key: LaunchKey, requests: Mapping[str, Any]) -> None:
        super().__init__(cluster, replace(spec, note=""), key)
        self._whole = render_hetjob(list(requests.values()), output_path="/dev/null", body="true")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is worth a look."""
        return tuple(self._warnings)

    def starts(self) -> tuple[datetime | None, str]:
        """When Slurm would start it, or why that is not known."""
        return self._start()

    def _estimate(self) -> datetime | None:
        return self._cluster.start_estimate(self._asked, self._whole)


class _PlanOfComponent(PlanForCluster):
    """What a component would be.

    Args:
        number: Which it is, from 0 on.
        arguments: As for `PlanForCluster`.
    """

    launch = ""
    """How its payload is started, when it has been planned."""

    def __init__(self, cluster: SlurmCluster, spec: WorkSpec, key: LaunchKey, number: int) -> None:
        super().__init__(cluster, spec, key)
        self._number = number

    def _start(self) -> tuple[datetime | None, str]:
        return None, _WITH_OTHERS

    def _directory_in(self, directory: RunDirectory) -> str:
        return directory.of_element(self._number).place

    def _managed(self, directory: RunDirectory) -> dict[str, str]:
        # Slurm reads them of the first alone.
        return {} if self._number else super()._managed(directory)

    def _script(self, directory: RunDirectory, activation: Activation) -> str:
        spec = self._spec
        planner = in_component(spec.plan)
        self.launch = launch_in_job(planner, spec.payload, activation, spec.request, spec.staging.scratch)
        return ""
