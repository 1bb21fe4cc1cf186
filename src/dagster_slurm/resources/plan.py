"""What `compute.run` would do, found out without doing it: what is rendered, and what the cluster is asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import DagsterError, OpExecutionContext, build_resources

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments import Activation, Preview, Site, preview
from dagster_slurm.errors import InvalidRequestError, SlurmUnavailableError, SubmitLimitError
from dagster_slurm.job.batch_script import batch_script, env_file
from dagster_slurm.job.handle import LaunchKey
from dagster_slurm.launchers import launch_function, launch_function_of_tasks, work_files
from dagster_slurm.pipes.dagster_private import StepContext, op_context, step_key
from dagster_slurm.pipes.partition_results import checked_max_parallel, partitions_of, refuse_outputs
from dagster_slurm.resources import asset_metadata
from dagster_slurm.resources.call import BUILT_IN, CALL, DATA_KEYS, Arguments, Call, Job, Work
from dagster_slurm.resources.job_plan import JobPlan, PlannedFile, PlannedSetting, PlannedUpload
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.arrays import array_option
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging import Staging, plan_staging
from dagster_slurm.staging.plan import Inputs
from dagster_slurm.staging.store import InputStore
from dagster_slurm.transport import TreeEntry

if TYPE_CHECKING:
    from dagster_slurm.resources.compute import ComputeResource

_RUN_ID = "RUN_ID"
# To know whether the cluster has an input, all of it is read here; a plan is to be had in seconds.
_READ_AT_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Tasks:
    """The partitions of `run_partitions`, as the tasks of one job array.

    Args:
        count: How many there are.
        max_parallel: How many run at once; None for no limit.

    Raises:
        InvalidRequestError: One is not a positive number.
    """

    count: int
    max_parallel: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no number of tasks."""
        if isinstance(self.count, bool) or self.count < 1:
            raise InvalidRequestError(f"partitions is {self.count!r}", hint="Give a number from 1 on, or None.")
        checked_max_parallel(self.max_parallel)

    @classmethod
    def of(cls, context: StepContext, max_parallel: int | None) -> Tasks:
        """Those of a step.

        Raises:
            InvalidRequestError: It has none.
        """
        return cls(len(partitions_of(op_context(context))), max_parallel)

    @property
    def option(self) -> str:
        """What `--array` is given."""
        return array_option(self.count, self.max_parallel)


def job_plan(
    resource: ComputeResource, context: StepContext | None, arguments: Arguments, tasks: Tasks | None = None
) -> JobPlan:
    """What a call would do.

    Args:
        resource: Whose call it is.
        context: That of a step; None, or what `build_asset_context()` makes, outside of one.
        arguments: What it is called with.
        tasks: The partitions, for `run_partitions`.

    Raises:
        InvalidRequestError: As `run`.
        ConfigurationError: As `run`.
        TransportError: The cluster cannot be reached.
        SubmissionRejectedError: Slurm would not take the job.
    """
    step = _step_of(context)
    if step is not None:
        return _planned(resource, step, arguments, tasks)
    # Within a run, Dagster has put the values of environment variables into the resource; here it is done now.
    with build_resources({"compute": resource}) as ready:
        return _planned(ready.compute, step, arguments, tasks)


def _planned(
    resource: ComputeResource, step: OpExecutionContext | None, arguments: Arguments, tasks: Tasks | None
) -> JobPlan:
    call = Call(resource, step, arguments)
    if resource.mode == "local":
        return _plan_here(call, arguments, tasks)
    job = call.job()
    there = _There(
        call.slurm().connect().cluster, job, _Contents.of(job.work, tasks), _key(step, job.name, tasks), tasks
    )
    return there.plan(
        sources=call.request()[1],
        settings=_settings(call, arguments, resource),
        max_node_hours=resource.max_node_hours,
    )


@dataclass(frozen=True)
class _Contents:
    """What lies in the working directory."""

    payload: Sequence[TreeEntry]
    extra: Sequence[TreeEntry]
    staging: Staging

    @classmethod
    def of(cls, work: Work, tasks: Tasks | None) -> _Contents:
        """As the clients have it.

        Raises:
            InvalidRequestError: A file is not there, a name is taken, a variable has no name a shell takes.
        """
        env_file(work.extra_env or {})
        files = work_files(work.payload, work.extra_files)
        count = len(work_files(work.payload, None))
        staging = plan_staging(work.data, uploaded=[entry.name for entry in files])
        if tasks is not None:
            refuse_outputs(staging)
        return cls(files[:count], files[count:], staging)

    def uploads(self, *, payload_note: str = "") -> tuple[PlannedUpload, ...]:
        """Those that every job gets for itself."""
        made = [PlannedUpload("payload", _files(self.payload), payload_note)]
        made += [PlannedUpload("extra files", _files(self.extra))] if self.extra else []
        return tuple(made)


class _There:
    """A plan for a cluster."""

    def __init__(
        self, cluster: SlurmCluster, job: Job, contents: _Contents, key: LaunchKey, tasks: Tasks | None
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
            options=_options(request, sources, directory, self._tasks),
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
        plan = self._job.work.plan(self._job.work.payload, activation)
        work, env = directory.work, directory.env_file
        if self._tasks is not None:
            launch = launch_function_of_tasks(plan, work_directory=work, env_file=env)
            return batch_script(self._job.request, directory=directory, launch=launch, array=self._tasks.option)
        launch = launch_function(plan, work_directory=work, env_file=env, scratch=self._contents.staging.scratch)
        return batch_script(self._job.request, directory=directory, launch=launch)

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


def _plan_here(call: Call, arguments: Arguments, tasks: Tasks | None) -> JobPlan:
    work = call.work_here()
    contents = _Contents.of(work, tasks)
    directory = "/tmp/dagster-slurm-XXXXXXXX"  # noqa: S108 - it stands for what tempfile makes
    launch = launch_function(
        work.plan(work.payload, Activation((), sys.executable, "this machine")),
        work_directory=f"{directory}/work",
        env_file=f"{directory}/env.sh",
        scratch=contents.staging.scratch,
    )
    inputs = contents.staging.inputs
    files = [PlannedFile(name, path.stat().st_size, is_there=False) for name, path in inputs.files.items()]
    files += [PlannedFile(f"{name} ({path.path})", None, is_there=True) for name, path in inputs.remote.items()]
    return JobPlan(
        mode="local",
        title=f"{work.payload.program} on this machine",
        host=os.uname().nodename,
        directory=directory,
        script=f"{launch}\n{'launch_in_scratch' if contents.staging.scratch else 'launch'}\n",
        settings=_settings(call, arguments, None),
        uploads=(*contents.uploads(), *([PlannedUpload("inputs", tuple(files))] if files else [])),
        environment=f"this machine's {sys.executable}",
        variables=tuple(sorted(work.extra_env or {})),
        extras=tuple(sorted(work.extras or {})),
        tasks=tasks.count if tasks else None,
        start_reason="it would be started at once",
    )


def _options(
    request: JobRequest, sources: Mapping[str, str], directory: RunDirectory, tasks: Tasks | None
) -> tuple[PlannedSetting, ...]:
    """Every option of sbatch, with those that are set for every job."""
    managed = {"job-name": directory.job_name(), "open-mode": "append", "output": directory.slurm_log}
    managed |= {"array": tasks.option} if tasks else {}
    shown = {name: "" if value is True else str(value) for name, value in request.sbatch_options().items()}
    return tuple(
        PlannedSetting(f"--{name}", value, sources.get(name, BUILT_IN))
        for name, value in sorted({**shown, **managed}.items())
    )


def _settings(call: Call, arguments: Arguments, resource: ComputeResource | None) -> tuple[PlannedSetting, ...]:
    """What else can be said in more than one place, as far as somebody says it."""
    launcher = call.launcher()
    made = [
        PlannedSetting("payload_path", str(arguments.payload_path), CALL),
        PlannedSetting("launcher", type(launcher.value).__name__, launcher.source),
    ]
    known: list[tuple[str, str | None, object]] = [("extra_files", asset_metadata.EXTRA_FILES, None)]
    known += [(name, key, None) for name, key in DATA_KEYS.items()]
    if resource is not None:
        made.append(PlannedSetting("environment", *call.environment_choice().described()))
        known += [
            ("environment_name", asset_metadata.ENVIRONMENT_NAME, resource.default_environment_name),
            ("force_env_push", asset_metadata.FORCE_ENV_PUSH, None),
            ("remote_payload_path", asset_metadata.PAYLOAD_PATH, None),
            ("skip_payload_upload", asset_metadata.SKIP_PAYLOAD_UPLOAD, resource.default_skip_payload_upload or None),
            ("retry_policy", None, resource.retry_policy),
            ("continue_exit_code", None, resource.continue_exit_code),
        ]
    for name, key, of_resource in known:
        chosen = call.chosen(name, key, resource=of_resource)
        if chosen.value is not None:
            made.append(PlannedSetting(name, str(chosen.value), chosen.source))
    return tuple(made)


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


def _files(entries: Sequence[TreeEntry]) -> tuple[PlannedFile, ...]:
    return tuple(
        PlannedFile(entry.name, len(entry.source) if isinstance(entry.source, bytes) else _size(entry.source), False)
        for entry in entries
    )


def _size(path: Path) -> int:
    return path.stat().st_size


def _key(step: OpExecutionContext | None, name: str | None, tasks: Tasks | None) -> LaunchKey:
    call = f"{name or '0'}{'.array0' if tasks else ''}"
    if step is None:
        return LaunchKey(_RUN_ID, "step", (), call)
    is_partitioned = step.has_partition_key or step.has_partition_key_range
    return LaunchKey(_RUN_ID, step_key(step), tuple(step.partition_keys) if is_partitioned else (), call)


def _step_of(context: StepContext | None) -> OpExecutionContext | None:
    """The step's context; None for what `build_asset_context()` makes, which belongs to no asset."""
    if context is None:
        return None
    step = op_context(context)
    try:
        return step if step.has_assets_def in (True, False) else None
    except DagsterError:
        return None


def _tell_nobody(text: str) -> None:
    del text
