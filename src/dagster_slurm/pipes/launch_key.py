"""Which piece of work a `compute.run` call is."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dagster import DagsterEventType, DagsterInstance, DagsterRun

from dagster_slurm.cluster.description import DIGESTS, Description
from dagster_slurm.environments import CLUSTER_PYTHON
from dagster_slurm.job.retrying import Outcome
from dagster_slurm.launchers import Payload, Place, Planner, work_files
from dagster_slurm.pipes.dagster_private import continues_from_parent
from dagster_slurm.pipes.step import Step
from dagster_slurm.process_identity import Life, ProcessIdentity
from dagster_slurm.run_directory import LaunchKey, short_digest
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.transport import TreeEntry, content

if TYPE_CHECKING:
    from dagster_slurm.environments import Provider
    from dagster_slurm.staging.plan import Staging

Reattach = Literal["retry", "asset", "never"]


@dataclass(frozen=True)
class PieceOfWork:
    """What a `compute.run` call is to do, by name.

    Args:
        key: Its own key.
        others: Keys of the same step under earlier origins; a live job there is adopted.
        asset_digest: Stands for asset, step and partition, whatever the run; empty for what is not an asset.
        assets: The asset keys, for people.
    """

    key: LaunchKey
    others: tuple[LaunchKey, ...] = ()
    asset_digest: str = ""
    assets: tuple[str, ...] = ()


def piece_of_work(step: Step, name: str | None, reattach: Reattach) -> PieceOfWork:
    """The call's piece of work: named by its name or, without one, by its place among the calls of this step.

    With `reattach="never"`, and for a function that is called directly, each call is a piece of work of its own.
    """
    call = name if name is not None else str(next(step.calls))
    partition_keys = step.partition_keys or ()
    assets = tuple(sorted(key.to_user_string() for key in step.asset_keys))
    # The step as well: those of a graph asset, and mapped ones, have its asset in common (dagster#17340).
    paths = [list(key.path) for key in step.asset_keys]
    digest = short_digest(paths, step.key, list(partition_keys), call) if assets else ""
    run = step.run
    if run is None:
        key = LaunchKey(f"direct-{uuid.uuid4().hex}", step.key, partition_keys, call)
        return PieceOfWork(key, assets=assets)
    if reattach == "never":
        key = LaunchKey(run.run_id, step.key, partition_keys, f"{call}.retry{step.retry_number}")
        return PieceOfWork(key, asset_digest=digest, assets=assets)
    found = origins(lineage_of(step.instance, run, step.key))
    key = LaunchKey(found.own, step.key, partition_keys, call)
    others = tuple(replace(key, origin_run_id=run_id) for run_id in found.others)
    return PieceOfWork(key, others, digest, assets)


def may_have_begun(step: Step, work: PieceOfWork) -> bool:
    """Whether another process may have begun with a piece of work, by Dagster's records.

    Each logs the start of a step before it runs the body of it; what is called outside of a run has a key of its own.
    """
    if step.run is None:
        return False
    if work.others or work.key.origin_run_id != step.run.run_id or step.retry_number > 0:
        return True
    starts = step.instance.all_logs(step.run.run_id, of_type=DagsterEventType.STEP_START)
    return sum(entry.step_key == step.key for entry in starts) > 1


_LONGEST_LINEAGE = 64
CONTINUES_TAG = "slurm/continues_run"
"""The run whose work a run goes on with, where Dagster does not know of that: it was requested by a sensor."""
_RETRY_TAGS = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry", "dagster/retry_number")


@dataclass(frozen=True)
class Generation:
    """One run of a lineage, as far as one step is concerned.

    Args:
        run_id: The run.
        is_retry: Whether it goes on with what its parent left undone: from failure, or launched by the daemon.
        step_succeeded: Whether the step had succeeded in it when the run after it was created.
        is_finished: Whether nothing works on it any more.
    """

    run_id: str
    is_retry: bool
    step_succeeded: bool
    is_finished: bool


@dataclass(frozen=True)
class Origins:
    """Where to look for the job of a step.

    Args:
        own: The run in which this piece of work began.
        others: Origins of the same step in finished runs before it, the most recent first. A live job there is
            adopted; a completed one is not.
    """

    own: str
    others: tuple[str, ...] = ()


def origins(lineage: Sequence[Generation]) -> Origins:
    """The origins for a step. Pure.

    A retry continues the work of its parent, unless the step has succeeded there: the tag that marks a retry from
    failure is inherited by re-executions of all steps (dagster 1.13).

    Args:
        lineage: The run, its parent, the parent's parent, and so on.
    """
    first = _origin_index(lineage, 0)
    found = [
        lineage[_origin_index(lineage, index)].run_id
        for index in range(first + 1, len(lineage))
        if lineage[index].is_finished and not lineage[index].step_succeeded
    ]
    own = lineage[first].run_id
    return Origins(own, tuple(run_id for run_id in dict.fromkeys(found) if run_id != own))


def _origin_index(lineage: Sequence[Generation], index: int) -> int:
    while index + 1 < len(lineage) and lineage[index].is_retry and not lineage[index + 1].step_succeeded:
        index += 1
    return index


def lineage_of(instance: DagsterInstance, run: DagsterRun, step_key: str) -> list[Generation]:
    """The run and its ancestors, from Dagster's storage; one that was deleted there ends it."""
    found = [Generation(run.run_id, _is_retry(instance, run), step_succeeded=False, is_finished=False)]
    while (parent_id := run.parent_run_id or run.tags.get(CONTINUES_TAG)) and len(found) < _LONGEST_LINEAGE:
        parent = instance.get_run_by_id(parent_id)
        record = instance.get_run_record_by_id(run.run_id)
        if parent is None or record is None:
            break
        # A success that came later is one of a process that was taken for dead: this run was asked to do it again.
        before = record.create_timestamp.timestamp()
        run = parent
        found.append(
            Generation(
                run.run_id,
                _is_retry(instance, run),
                step_succeeded=succeeded_before(instance, run.run_id, step_key, before),
                is_finished=run.is_finished,
            )
        )
    return found


def succeeded_before(instance: DagsterInstance, run_id: str, step_key: str, moment: float) -> bool:
    """Whether a step's success was on record at a moment, in seconds since the epoch."""
    successes = instance.all_logs(run_id, of_type=DagsterEventType.STEP_SUCCESS)
    return any(entry.step_key == step_key and entry.timestamp < moment for entry in successes)


def _is_retry(instance: DagsterInstance, run: DagsterRun) -> bool:
    if run.parent_run_id is None:
        return CONTINUES_TAG in run.tags
    return any(tag in run.tags for tag in _RETRY_TAGS) or continues_from_parent(instance, run)


_ADDED = ("files", "extras", "variables", "launcher")


class Deploy(Protocol):
    """What is to be run, as far as one deploy differs from another: a `WorkSpec`."""

    @property
    def payload(self) -> Payload: ...

    @property
    def request(self) -> JobRequest: ...

    @property
    def environment(self) -> Provider: ...

    @property
    def staging(self) -> Staging: ...

    @property
    def files(self) -> Iterable[TreeEntry]: ...

    @property
    def extras(self) -> Mapping[str, Any] | None: ...

    @property
    def extra_env(self) -> Mapping[str, str] | None: ...

    @property
    def plan(self) -> Planner: ...


def digests(spec: Deploy) -> dict[str, str]:
    """What tells one deploy from another."""
    options = {field.name: getattr(spec.request, field.name) for field in fields(spec.request)}
    beside = _beside(spec.payload, spec.files)
    made = {
        "payload": hashlib.sha256(_content(spec.payload)).hexdigest()[:16],
        "options": short_digest({**options, "options": dict(spec.request.options)}),
        "files": short_digest([[each.name, content.digest(each.source)[0]] for each in beside]),
        "extras": short_digest(dict(spec.extras or {})),
        "variables": short_digest(sorted((spec.extra_env or {}).items())),
        "launcher": short_digest(repr(spec.plan(spec.payload, Place.of_job(CLUSTER_PYTHON, spec.request)))),
        "environment": spec.environment.title,
    }
    inputs = spec.staging.inputs.version()
    return {**made, "inputs": inputs} if inputs else made


def _beside(payload: Payload, files: Iterable[TreeEntry]) -> list[TreeEntry]:
    own = {each.name for each in work_files(payload, None)}
    return sorted((each for each in files if each.name not in own), key=lambda each: each.name)


def _content(payload: Payload) -> bytes:
    """What has to be the same for a payload to be the same: its content if it is sent, else its name."""
    if payload.source is None:
        return f"{'-m ' if payload.form == 'module' else ''}{payload.program}".encode()
    if not payload.source.is_dir():
        return payload.source.read_bytes()
    # A digest of each: a large directory has no place in memory. No file's name holds a NUL.
    return b"".join(
        os.fsencode(entry.name) + b"\0" + content.digest(entry.source)[0].encode()
        for entry in work_files(payload, None)
    )


def describe(
    step: Step,
    work: PieceOfWork,
    digests_of: Mapping[str, str],
    *,
    environment_path: str | None,
    elements: Mapping[str, Sequence[Outcome]] | None = None,
    is_hetjob: bool = False,
) -> Description:
    """What `launch.json` tells of a call.

    Args:
        step: The step.
        work: Which piece of work it is.
        digests_of: What tells one deploy from another.
        environment_path: What its payload runs in; None for nothing of ours.
        elements: The partitions of a job array, by the number of the task, and how each has ended before.
        is_hetjob: Whether they are assets instead, each a component of a heterogeneous job.
    """
    earlier = tuple(tuple(each.to_value() for each in outcomes) for outcomes in (elements or {}).values())
    run = step.run
    return Description(
        origin_run_id=work.key.origin_run_id,
        run_id=run.run_id if run else "",
        job=run.job_name if run else "",
        step_key=work.key.step_key,
        partition_keys=work.key.partition_keys,
        call=work.key.call,
        assets=work.assets,
        process=ProcessIdentity.of_this_process(),
        environment_path=environment_path or "",
        elements=tuple(elements or ()),
        earlier=earlier if any(earlier) else (),
        digests=digests_of,
        is_hetjob=is_hetjob,
    )


def differences(found: Description, digests_of: Mapping[str, str]) -> list[str]:
    """What differs between an adopted job and what would be submitted now, in words."""
    # What a release of before has not noted is not known to differ.
    noted = [name for name in DIGESTS if name in found.digests or name not in _ADDED]
    return [DIGESTS[name] for name in noted if found.digests.get(name) != digests_of.get(name)]


def is_abandoned(found: Description, instance: DagsterInstance) -> bool:
    """Whether nobody works on an attempt any more, as far as can be told from here.

    Dagster's word counts where it knows the run; otherwise the process that submitted has to be known to be gone.
    """
    run = instance.get_run_by_id(found.run_id) if found.run_id else None
    if run is not None:
        group = instance.get_run_group(run.run_id)
        return all(each.is_finished for each in (group[1] if group else [run]))
    return found.process is not None and found.process.life() is Life.GONE
