"""A plan for a cluster: what is rendered for it, and what it is asked. Nothing changes there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments import Activation, Preview, Site, preview
from dagster_slurm.errors import SlurmUnavailableError, SubmitLimitError
from dagster_slurm.job.batch_script import batch_script
from dagster_slurm.job.handle import LaunchKey
from dagster_slurm.launchers import launch_in_job
from dagster_slurm.resources.call import Job
from dagster_slurm.resources.job_plan import JobPlan, PlannedFile, PlannedSetting, PlannedUpload
from dagster_slurm.resources.plan_contents import Contents, Tasks
from dagster_slurm.resources.planned_settings import options_of
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.staging.plan import Inputs
from dagster_slurm.staging.store import InputStore

# To know whether the cluster has an input, all of it is read here; a plan is to be had in seconds.
_READ_AT_MOST_BYTES = 1 << 30


class PlanForCluster:
    """What a job of a cluster would be.

    Args:
        cluster: The cluster.
        job: What is to be run.
        contents: What lies in its working directory.
        key: Which piece of work it is.
        tasks: The partitions, if it is a job array.
    """

    def __init__(
        self, cluster: SlurmCluster, job: Job, contents: Contents, key: LaunchKey, tasks: Tasks | None
    ) -> None:
        self._cluster = cluster
        self._job = job
        self._contents = contents
        self._key = key
        self._tasks = tasks
        self._warnings: list[str] = []

    def plan(
        self,
        *,
        sources: Mapping[str, str],
        settings: tuple[PlannedSetting, ...],
        max_node_hours: float | None,
    ) -> JobPlan:
        """Ask the cluster, and put the plan together.

        Args:
            sources: Where the options come from, as `merge_named` says.
            settings: What else can be said in more than one place.
            max_node_hours: The most that is allowed.

        Raises:
            DagsterSlurmError: As `ComputeResource.plan`.
        """
        work, request = self._job.work, self._job.request
        # What Slurm says of the request comes first, as it does in a run.
        start, start_reason = self._start()
        environment = preview(self._job.environment, Site(self._cluster, _tell_nobody, self._job.force_env_push))
        directory = self._key.first_attempt(self._cluster.base())
        return JobPlan(
            mode="slurm",
            title=f"{work.payload.program} on {self._cluster.host}",
            host=self._cluster.host,
            directory=directory.path,
            script=self._script(directory, environment.activation),
            options=options_of(request, sources, directory, self._tasks.option if self._tasks else None),
            settings=settings,
            uploads=self._uploads(environment),
            environment=_told_of(environment),
            variables=tuple(sorted(work.extra_env or {})),
            extras=tuple(sorted(work.extras or {})),
            start=start,
            start_reason=start_reason,
            node_hours=request.node_hours,
            tasks=self._tasks.count if self._tasks else None,
            max_node_hours=max_node_hours,
            warnings=tuple(self._warnings),
        )

    def _start(self) -> tuple[datetime | None, str]:
        """When Slurm would start it, or why that is not known."""
        request = self._job.request
        try:
            start = self._cluster.start_estimate(request)
        except SubmitLimitError as error:
            self._warnings.append("It would be submitted when others of your jobs have ended")
            return None, error.message
        except SlurmUnavailableError as error:
            self._warnings.append("Slurm does not answer: whether it would take the job is not known")
            return None, error.message
        if start is None:
            return None, "Slurm names no time; nodes that the job needs may be away"
        waits = (start - datetime.now(timezone.utc)).total_seconds()
        if request.max_queue_seconds is not None and waits > request.max_queue_seconds:
            self._warnings.append("By Slurm's estimate it waits longer than max_queue_hours, and would be given up")
        return start, ""

    def _script(self, directory: RunDirectory, activation: Activation) -> str:
        work, request = self._job.work, self._job.request
        launch = launch_in_job(work.plan, work.payload, activation, request, self._contents.staging.scratch)
        array = self._tasks.option if self._tasks else None
        return batch_script(request, directory=directory, launch=launch, array=array)

    def _uploads(self, environment: Preview) -> tuple[PlannedUpload, ...]:
        inputs = self._inputs()
        made = [*self._contents.uploads(payload_note=self._payload_note()), *([inputs] if inputs else [])]
        return (*made, _environment_upload(environment))

    def _payload_note(self) -> str:
        payload = self._job.work.payload
        if payload.source is not None:
            return ""
        if payload.form != "path":
            return f"{payload.program} is looked for by Python, in the environment and among the extra files"
        if self._cluster.present("/", (), [payload.program]).missing:
            self._warnings.append(f"There is no payload {payload.program} on the cluster")
        return f"{payload.program} of the cluster is used"

    def _inputs(self) -> PlannedUpload | None:
        inputs = self._contents.staging.inputs
        if not inputs.names:
            return None
        sizes = {name: path.stat().st_size for name, path in inputs.files.items()}
        is_little = sum(sizes.values()) <= _READ_AT_MOST_BYTES
        asked = inputs if is_little else Inputs({}, inputs.remote)
        there = InputStore(self._cluster, asked, _tell_nobody).there()
        files = [PlannedFile(name, size, name in there if is_little else None) for name, size in sizes.items()]
        files += [PlannedFile(f"{name} ({path.path})", None, is_there=True) for name, path in inputs.remote.items()]
        note = "" if is_little else "too large to be read for a plan; what the cluster has of them is not sent again"
        return PlannedUpload("inputs", tuple(files), note)


def _environment_upload(environment: Preview) -> PlannedUpload:
    if environment.is_there:
        return PlannedUpload("environment", ())
    if environment.parts is None:
        return PlannedUpload("environment", (), "it is packed first; what is sent is known only then")
    files = tuple(
        PlannedFile(part.name, part.size_bytes or None, is_there=part.sha256 in environment.there)
        for part in environment.parts
    )
    return PlannedUpload("environment", files, "what of its parts the cluster has is not sent again")


def _told_of(environment: Preview) -> str:
    return f"{environment.activation.description}{'' if environment.is_there else ', which would be installed first'}"


def _tell_nobody(text: str) -> None:
    del text
