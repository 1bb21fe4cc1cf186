"""What a call would do, found out without doing it: what is made of its `WorkSpec`, and what the cluster is asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments import Activation, Preview, Site, preview
from dagster_slurm.errors import SlurmUnavailableError, SubmitLimitError
from dagster_slurm.launchers import work_files
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources.call import SETTINGS
from dagster_slurm.resources.job_plan import JobPlan, PlannedFile, PlannedSetting, PlannedUpload
from dagster_slurm.run_directory import LaunchKey, RunDirectory
from dagster_slurm.session import SessionSpec, Share
from dagster_slurm.slurm.request import AUTO
from dagster_slurm.staging.on_this_machine import used_in_place
from dagster_slurm.staging.plan import Inputs
from dagster_slurm.staging.store import InputStore
from dagster_slurm.text import as_text
from dagster_slurm.transport import TreeEntry
from dagster_slurm.work.spec import BUILT_IN, RESOURCE, WorkSpec

_RUN_ID = "RUN_ID"
# To know whether the cluster has an input, all of it is read here; a plan is to be had in seconds.
_READ_AT_MOST_BYTES = 1 << 30


def job_plan(
    spec: WorkSpec, step: Step | None, cluster: SlurmCluster | None, session: SessionSpec | None = None
) -> JobPlan:
    """What would be done.

    Args:
        spec: What is to be run.
        step: The step; None outside of one.
        cluster: Where; None for this machine.
        session: Whose step it would be; None for a job.

    Raises:
        InvalidRequestError: As `run`.
        TransportError: The cluster cannot be reached.
        SubmissionRejectedError: Slurm would not take the job.
    """
    facts = facts_of(spec)
    if cluster is None:
        return _plan_here(spec, facts)
    return PlanForCluster(cluster, spec, key_of(step, spec), session).plan(uploads_of(spec), facts)


def facts_of(spec: WorkSpec) -> dict[str, Any]:
    """What is known without the cluster: fields of the plan."""
    return {
        "settings": tuple(_settings(spec)),
        "variables": tuple(sorted(spec.extra_env or {})),
        "extras": tuple(sorted(spec.extras or {})),
        "tasks": spec.tasks.count if spec.tasks else None,
    }


def _settings(spec: WorkSpec) -> Iterator[PlannedSetting]:
    """What can be said in more than one place, as far as somebody says it."""
    if (profile := spec.said.get("profile")) is not None:
        yield PlannedSetting("profile", profile.value, profile.source)
    for row in SETTINGS:
        said = spec.said.get(row.name)
        if row.shown is not None and said is not None and said.value is not None:
            yield PlannedSetting(row.name, row.shown(said.value), said.source)
            for name, part in said.parts.items():
                yield PlannedSetting(f"{row.name}.{name}", as_text(part.value), part.source)


def uploads_of(spec: WorkSpec) -> tuple[PlannedUpload, ...]:
    """What every job gets for itself: the payload, and what lies beside it."""
    count = len(work_files(spec.payload, None))
    extra = spec.files[count:]
    made = [PlannedUpload("payload", _files(spec.files[:count]))]
    return (*made, *([PlannedUpload("extra files", _files(extra))] if extra else []))


def _files(entries: Sequence[TreeEntry]) -> tuple[PlannedFile, ...]:
    return tuple(
        PlannedFile(entry.name, len(entry.source) if isinstance(entry.source, bytes) else _size(entry.source), False)
        for entry in entries
    )


def _size(path: Path) -> int:
    return path.stat().st_size


def _plan_here(spec: WorkSpec, facts: Mapping[str, Any]) -> JobPlan:
    directory = "/tmp/dagster-slurm-XXXXXXXX"  # noqa: S108 - it stands for what tempfile makes
    inputs = spec.staging.inputs
    files = [PlannedFile(name, _size(path), is_there=False) for name, path in inputs.files.items()]
    files += [
        PlannedFile(f"{name} ({used_in_place(path)})", None, is_there=True) for name, path in inputs.remote.items()
    ]
    return JobPlan(
        mode="local",
        title=f"{spec.payload.program} on this machine",
        host=os.uname().nodename,
        directory=directory,
        script=f"{spec.script_here(directory, sys.executable)}\n",
        uploads=(*uploads_of(spec), *([PlannedUpload("inputs", tuple(files))] if files else [])),
        environment=f"this machine's {sys.executable}",
        start_reason="it would be started at once",
        **facts,
    )


def key_of(step: Step | None, spec: WorkSpec) -> LaunchKey:
    """Which piece of work a call would be, of a run that has no id yet."""
    call = f"{spec.name or '0'}{'.array0' if spec.tasks else ''}"
    return LaunchKey(_RUN_ID, step.key if step else "step", (step and step.partition_keys) or (), call)


class PlanForCluster:
    """What a job of a cluster would be.

    Args:
        cluster: The cluster.
        spec: What is to be run.
        key: Which piece of work it is.
        session: Whose step it would be; None for a job.
    """

    def __init__(
        self, cluster: SlurmCluster, spec: WorkSpec, key: LaunchKey, session: SessionSpec | None = None
    ) -> None:
        self._cluster = cluster
        # What Slurm is asked for: of a step, its session's allocation.
        self._asked = session.request if session else spec.request
        self._spec = spec
        self._key = key
        self._chosen: tuple[PlannedSetting, ...] = ()
        self._array = spec.tasks.option if spec.tasks else None
        self._warnings: list[str] = [spec.note] if spec.note else []
        if session:
            session.refuse_step(Share.of(spec.request))
            self._warnings.append(f"It is a step of {session.title}, which is asked of Slurm as {session.shape}")

    def plan(self, uploads: tuple[PlannedUpload, ...], facts: Mapping[str, Any]) -> JobPlan:
        """Ask the cluster, and put the plan together.

        Args:
            uploads: The payload, and what lies beside it.
            facts: What is known without the cluster: fields of the plan.

        Raises:
            DagsterSlurmError: As `ComputeResource.plan`.
        """
        spec = self._spec
        if self._asked.partition == AUTO:
            self._place()
            spec = self._spec
        # What Slurm says of the request comes first, as it does in a run.
        start, start_reason = self._start()
        environment = preview(spec.environment, Site(self._cluster, _tell_nobody, spec.force_env_push))
        directory = self._key.first_attempt(self._cluster.base())
        spec = self._spec = spec.at(self._cluster.absolute)
        return JobPlan(
            mode="slurm",
            title=f"{spec.payload.program} on {self._cluster.host}",
            host=self._cluster.host,
            directory=self._directory_in(directory),
            script=self._script(directory, environment.activation),
            options=self._options(directory),
            uploads=self._uploads(uploads, environment),
            environment=_told_of(environment),
            start=start,
            start_reason=start_reason,
            node_hours=self._asked.node_hours,
            max_node_hours=spec.max_node_hours,
            warnings=tuple(self._warnings),
            **{**facts, "settings": (*facts["settings"], *self._chosen)},
        )

    def _place(self) -> None:
        """Choose the partition, as a run does."""
        from dagster_slurm.cluster.placement import placed  # noqa: PLC0415 - most requests name a partition, or none

        self._asked, choice = placed(self._cluster, self._asked)
        source = self._spec.option_sources.get("partition", RESOURCE)
        self._chosen = (PlannedSetting("partition", f"{choice.partition}, chosen: {choice.reason}", source),)
        if self._spec.request.partition == AUTO:
            self._spec = replace(self._spec, request=self._asked)

    def _directory_in(self, directory: RunDirectory) -> str:
        return directory.path

    def _script(self, directory: RunDirectory, activation: Activation) -> str:
        return self._spec.batch_script(directory, activation, self._spec.request, array=self._array)

    def _options(self, directory: RunDirectory) -> tuple[PlannedSetting, ...]:
        """Every option of sbatch, with those that are set for every job."""
        given = self._spec.request.sbatch_options().items()
        shown = {**{name: "" if value is True else str(value) for name, value in given}, **self._managed(directory)}
        sources = self._spec.option_sources
        return tuple(
            PlannedSetting(f"--{name}", value, sources.get(name, BUILT_IN)) for name, value in sorted(shown.items())
        )

    def _managed(self, directory: RunDirectory) -> dict[str, str]:
        own = {"job-name": directory.job_name(), "open-mode": "append", "output": directory.slurm_log}
        return {**own, **({"array": self._array} if self._array else {})}

    def _estimate(self) -> datetime | None:
        return self._cluster.start_estimate(self._asked)

    def _start(self) -> tuple[datetime | None, str]:
        """When Slurm would start it, or why that is not known."""
        request = self._asked
        try:
            start = self._estimate()
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

    def _uploads(self, own: tuple[PlannedUpload, ...], environment: Preview) -> tuple[PlannedUpload, ...]:
        payload, *extra = own
        inputs = self._inputs()
        noted = replace(payload, note=self._payload_note())
        return (noted, *extra, *([inputs] if inputs else []), _environment_upload(environment))

    def _payload_note(self) -> str:
        payload = self._spec.payload
        if payload.source is not None:
            return ""
        if payload.form != "path":
            return f"{payload.program} is looked for by Python, in the environment and among the extra files"
        if self._cluster.present("/", (), [payload.program]).missing:
            self._warnings.append(f"There is no payload {payload.program} on the cluster")
        return f"{payload.program} of the cluster is used"

    def _inputs(self) -> PlannedUpload | None:
        inputs = self._spec.staging.inputs
        if not inputs.names:
            return None
        sizes = {name: path.stat().st_size for name, path in inputs.files.items()}
        is_little = sum(sizes.values()) <= _READ_AT_MOST_BYTES
        asked = inputs if is_little else Inputs({}, inputs.remote)
        there = InputStore(self._cluster, asked, _tell_nobody).there()
        files = [PlannedFile(name, size, name in there if is_little else None) for name, size in sizes.items()]
        for name, path in inputs.remote.items():
            leads_to = self._cluster.absolute(path.path, f"RemotePath of {name!r}")
            files.append(PlannedFile(f"{name} ({leads_to})", None, is_there=True))
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
