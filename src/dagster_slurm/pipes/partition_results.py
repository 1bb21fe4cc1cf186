"""What the partitions of a step bring, and what of it is on record already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dagster import AssetCheckResult, AssetKey, MaterializeResult, PipesClientCompletedInvocation, PipesSession

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import Ended
from dagster_slurm.pipes.dagster_private import already_materialized, materializations
from dagster_slurm.pipes.dagster_storage import one_transaction
from dagster_slurm.pipes.launch_key import lineage_of
from dagster_slurm.pipes.session import UnitSession
from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import short_digest
from dagster_slurm.slurm.efficiency import (
    Needs,
    NodeUsage,
    UsageSample,
    gpu_accounting,
    job_metrics,
    record_of_line,
    sample_metrics,
    sampled,
    series,
)
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging.collect import Collected
from dagster_slurm.staging.plan import RemotePath

CALL_METADATA = "slurm_call"
KEPT = "slurm_kept"
COLLECTOR_FAULT = "slurm_metrics_collector_fault"
"""The name of the metadata that says what is wrong with what a metrics collector has given."""
LEAST_SECONDS_OF_USE = 15.0
"""Of what is shorter, a plot would cost more than a hundredth of its time; one process draws hundreds of them."""
ADVICE = "slurm_advice"
USAGE_PLOT = "slurm_usage_plot"


@dataclass(frozen=True)
class PartitionResult:
    """What one partition brought.

    Attributes:
        job_id: The task of the array ("123_7"); empty where it ran on this machine.
        metadata: What its materialisation carries.
        custom_messages: What the payload reported besides.
        check_results: Asset checks that the payload has reported. They are not on record yet: yield them, or one that
            sums them up.
        outputs: Files that were fetched to this machine.
        kept: What stays on the cluster, by its name in the working directory.
    """

    job_id: str
    metadata: Mapping[str, Any]
    custom_messages: Sequence[Any] = ()
    check_results: Sequence[AssetCheckResult] = ()
    outputs: Sequence[Path] = ()
    kept: Mapping[str, RemotePath] = field(default_factory=dict)


Recorded = Mapping[str, Mapping[AssetKey, Mapping[str, RemotePath]]]
"""What is on record for partitions: by partition and asset, what stays on the cluster."""


class Recorder:
    """Puts the results of partitions on record, each once.

    Args:
        step: The step.
        name: The call's name, if it has one.
        done: What is on record.
    """

    def __init__(self, step: Step, name: str | None, done: Recorded) -> None:
        from dagster_slurm.pipes.kept_values import KeptValues  # noqa: PLC0415 - a call without partitions does without

        self._events = step.pipes.events()
        self._values = KeptValues(self._events)
        self._call = {} if name is None else {CALL_METADATA: name}
        self._done = done
        self._unwritten: list[tuple[AssetKey, str, MaterializeResult[Any], Mapping[str, Any]]] = []
        self._instance = step.instance
        self.results: dict[str, PartitionResult] = {}

    def take(
        self, partition: str, session: UnitSession, metadata: Mapping[str, Any], *, job_id: str, collected: Collected
    ) -> None:
        """Take a partition's materialisations, but for the assets whose are on record already.

        Raises:
            LocalStorageError: An IO manager cannot store where something is.
        """
        made = session.materialized({**metadata, **data_metadata(collected), **self._call})
        shown = {name: value for result in made.values() for name, value in (result.metadata or {}).items()}
        for asset_key, result in made.items():
            if asset_key not in self._done.get(partition, ()):
                # Before it is on record: what Dagster shows as materialised can be loaded.
                stored = self._values.store(asset_key, partition, value_of(collected.kept))
                self._unwritten.append((asset_key, partition, result, stored))
                shown |= stored
        messages = list(session.pipes.get_custom_messages())
        self.results[partition] = PartitionResult(
            job_id, shown, messages, session.checks(), collected.outputs, collected.kept
        )

    def write(self) -> None:
        """Record what was taken."""
        unwritten, self._unwritten = self._unwritten, []
        if unwritten:
            with one_transaction(self._instance):
                for each in unwritten:
                    self._events.materialize(*each)


class SlurmPartitionsInvocation:
    """The end of `compute.run_partitions`: every partition is on record.

    Attributes:
        partitions: The results of this call, by partition key, without those that an earlier attempt has recorded.
    """

    def __init__(self, step: Step, results: Mapping[str, PartitionResult], done: Recorded) -> None:
        self._step = step
        self._done = done
        self.partitions: Mapping[str, PartitionResult] = dict(results)

    def get_results(self) -> Sequence[MaterializeResult[Any]]:
        """What the asset's function yields or returns: nothing of it is recorded again, and steps after it go on."""
        return [already_materialized(key) for key in self._step.asset_keys]

    def get_materialize_result(self) -> MaterializeResult[Any]:
        """The same, for a step of one asset.

        Raises:
            InvalidRequestError: The step has several.
        """
        results = self.get_results()
        if len(results) != 1:
            raise InvalidRequestError(
                f"The step has {len(results)} assets", hint="Yield each of `get_results()` in place of one result."
            )
        return results[0]

    def get_kept_result(self) -> MaterializeResult[Any]:
        """The same, with what stays on the cluster as its value, for an IO manager.

        The value is a mapping from partition keys, with those that an earlier attempt has recorded; of a run of one
        partition, what that has kept: the only entry of `kept`, or the mapping of all.

        Raises:
            InvalidRequestError: The step has several assets.
        """
        result, keys = self.get_materialize_result(), self._step.partition_keys or ()
        values = {key: value_of(kept) for key in keys if (kept := self._kept(key))}
        return with_value(result, values.get(keys[0], {}) if len(keys) == 1 else values)

    def _kept(self, partition: str) -> Mapping[str, RemotePath]:
        if partition in self.partitions:
            return self.partitions[partition].kept
        return self._done.get(partition, {}).get(self._step.asset_keys[0], {})


def partitions_of(step: Step) -> Sequence[str]:
    """The step's partitions, in their order.

    Raises:
        InvalidRequestError: It has none, or is called directly and not in a run.
    """
    if step.run is None or not step.is_asset or step.partition_keys is None:
        raise InvalidRequestError(
            "run_partitions is for a partitioned asset in a run that has partitions",
            hint="Give the asset partitions_def and backfill_policy=BackfillPolicy.single_run(), or use `run`.",
        )
    step.pipes.expect_results(
        "Return what `run_partitions(...)` gives: `.get_materialize_result()`, or yield `.get_results()`."
    )
    return step.partition_keys


def recorded(step: Step, origin_run_id: str, name: str | None) -> Recorded:
    """What this run, and those that it retries, have on record for each partition.

    Args:
        step: The step.
        origin_run_id: The run in which the piece of work began.
        name: The call's name, if it has one.
    """
    found: dict[str, dict[AssetKey, Mapping[str, RemotePath]]] = {}
    if step.run is None:
        return found
    for generation in lineage_of(step.instance, step.run, step.key):
        for made in materializations(step.instance, generation.run_id):
            is_of_call = made.step_key == step.key and made.metadata.get(CALL_METADATA) == name
            if is_of_call and made.partition is not None:
                told = made.metadata.get(KEPT) or {}
                kept = {name: RemotePath(each["path"], each["host"]) for name, each in told.items()}
                found.setdefault(made.partition, {})[made.asset_key] = kept
        if generation.run_id == origin_run_id:
            break
    return found


OUTPUTS = "slurm_outputs"
_RESULTS = "slurm_results"
# Of `dagster dev` without DAGSTER_HOME (dagster/_cli/utils.py, 1.13).
_TEMPORARY_HOME = ".tmp_dagster_home_"
# It stands in the event log, and in pages of the UI.
_SHOWN_OUTPUTS = 500


class SlurmCompletedInvocation(PipesClientCompletedInvocation):
    """Dagster's completed invocation, which also knows the payload's outputs.

    Attributes:
        outputs: Files that were fetched to this machine.
        kept: What stays on the cluster, by its name in the working directory.
    """

    def __init__(self, session: PipesSession, collected: Collected, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__(session, metadata={**(metadata or {}), **data_metadata(collected)})
        self.outputs: Sequence[Path] = collected.outputs
        self.kept: Mapping[str, RemotePath] = collected.kept

    def get_kept_result(self, name: str | None = None) -> MaterializeResult[Any]:
        """The materialize result, with what stays on the cluster as its value, for an IO manager.

        Args:
            name: Which of `kept`; by default the only one, or the mapping of all.
        """
        return with_value(self.get_materialize_result(), value_of(self.kept) if name is None else self.kept[name])


def value_of(kept: Mapping[str, RemotePath]) -> RemotePath | dict[str, RemotePath]:
    """The only path, or a mapping of all."""
    return next(iter(kept.values())) if len(kept) == 1 else dict(kept)


def with_value(result: MaterializeResult[Any], value: object) -> MaterializeResult[Any]:
    """The same result with a value for an IO manager."""
    return MaterializeResult(
        asset_key=result.asset_key,
        metadata=result.metadata,
        check_results=result.check_results,
        data_version=result.data_version,
        tags=result.tags,
        value=value,
    )


def data_metadata(collected: Collected) -> dict[str, Any]:
    """What a materialisation says of its data."""
    told: dict[str, Any] = {}
    if collected.outputs:
        paths = [str(path) for path in collected.outputs]
        more = [f"... and {len(paths) - _SHOWN_OUTPUTS} more"] if len(paths) > _SHOWN_OUTPUTS else []
        told[OUTPUTS] = paths[:_SHOWN_OUTPUTS] + more
    if collected.kept:
        told[KEPT] = {name: {"host": path.host, "path": path.path} for name, path in collected.kept.items()}
    return told


def data_place(step: Step, partition: str = "", name: str | None = None) -> str:
    """Where the data of a call lies: the asset's key and partition, as directories; the step's key without one asset.

    What would share that place has one below it: the steps of a graph asset, those that are mapped, and calls that have
    a name (dagster#7713).

    Args:
        step: The step.
        partition: The partition; empty for the step's own.
        name: The call's name, if it has one.
    """
    keys, partitions = step.asset_keys, [partition] if partition else step.partition_keys
    parts = list(keys[0].path) if len(keys) == 1 else [step.key]
    if partitions is not None:
        parts.append(partitions[0] if len(partitions) == 1 else f"{partitions[0]}...{partitions[-1]}")
    if len(keys) == 1 and step.is_of_graph:
        parts.append(f"step={step.key}")
    if name is not None:
        parts.append(f"call={name}")
    return "/".join(map(_file_name, parts))


def outputs_directory(step: Step, partition: str = "", name: str | None = None) -> Path:
    """Where outputs go by default: below Dagster's storage, by asset and partition; see `data_place`."""
    return Path(step.instance.storage_directory()) / OUTPUTS / data_place(step, partition, name)


def is_temporary(step: Step) -> bool:
    """Whether Dagster's storage goes with its processes: without DAGSTER_HOME, in memory or of `dagster dev`."""
    storage = Path(step.instance.storage_directory())
    return step.instance.is_ephemeral or any(part.startswith(_TEMPORARY_HOME) for part in storage.parts)


def results_directory(step: Step, partition: str = "") -> Path:
    """Where what stays in mode `local` lies."""
    return Path(step.instance.storage_directory()) / _RESULTS / data_place(step, partition)


def result_name(run_id: str, call: str) -> str:
    """What tells the result of one call from those of others for the same asset and partition."""
    return _file_name(f"{run_id}.{call}")


_LONGEST_NAME = 200


def _file_name(part: str) -> str:
    """A part of a key as the name of a directory; what is longer than a file name (255 bytes) ends in a digest."""
    # Of nothing, what `quote` makes of no name: an empty part would begin an absolute path.
    name = quote(part, safe=" +,=@()") or "%"
    if len(name) > _LONGEST_NAME:
        return f"{name[:_LONGEST_NAME]}~{short_digest(part)}"
    return name.replace(".", "%2E") if name in {".", ".."} else name


@dataclass(frozen=True)
class SlurmOutcome:
    """A job that has ended, as a metrics collector sees it.

    Args:
        job_id: Slurm's id.
        ended: How it ended, with its accounting.
        request: What was asked of Slurm.
        connection: The cluster it ran on.
    """

    job_id: str
    ended: Ended
    request: JobRequest
    connection: ClusterConnection


MetadataOf = Callable[[SlurmOutcome], Mapping[str, Any]]


def needs_of(metadata: MetadataOf, request: JobRequest) -> Needs:
    """What is wanted of sacct after a good end: all of it, where nobody knows what is read of its record."""
    if request.has_gpus:
        return Needs(everything=True)
    needs = Needs() if metadata is outcome_metadata else getattr(metadata, "needs", None)
    return needs if isinstance(needs, Needs) else Needs(everything=True)


def outcome_metadata(outcome: SlurmOutcome) -> dict[str, Any]:
    """The metadata of a materialisation: by the end line, and by sacct where it was asked and has answered.

    Of memory the end line tells more: sacct has samples, and of one task.
    """
    ended = outcome.ended
    known: dict[str, Any] = {
        **_requested_gpus(outcome.request),
        "slurm_state": ended.state.value,
        **({"slurm_accounting_available": ended.record is not None} if ended.was_accounting_asked else {}),
    }
    end = ended.end_mark
    usages = [NodeUsage(each.name, each.peak_bytes, each.cpu_seconds) for each in end.nodes] if end else []
    line = record_of_line(outcome.job_id, end.figures, ended_at=end.at_epoch_seconds) if end else None
    by_line = {**sample_metrics(samples_of(ended)), **(job_metrics(line, usages) if line else {})}
    by_slurm = job_metrics(sampled(ended.record), usages) if ended.record else {}
    # It is exact where Slurm is not (see `job_failure`).
    exact: dict[str, Any] = {"slurm_exit_code": end.exit_code} if end else {}
    exact |= {name: by_line[name] for name in ("max_memory_mb", "memory_efficiency_pct") if name in by_line}
    exact |= {"slurm_job_id": metadata_job_id(outcome.job_id)}
    if outcome.request.has_gpus and ended.record:
        exact |= gpu_accounting(ended.record)
    return _shown({**by_line, **known, **by_slurm, **exact}, has_gpus=outcome.request.has_gpus)


def metadata_job_id(job_id: str) -> int | str:
    """An id as it is in metadata: a number, of which Dagster plots a series; text for the task of an array."""
    return int(job_id) if job_id.isdecimal() else job_id


def has_lasted(ended: Ended) -> bool:
    """Whether its use as time went on is worth more than its figures."""
    end = ended.end_mark
    began = end.figures.started_at if end else None
    return end is not None and began is not None and end.at_epoch_seconds - began >= LEAST_SECONDS_OF_USE


def samples_of(ended: Ended) -> tuple[UsageSample, ...]:
    """What a job has used as time went on; none where its end line does not tell."""
    end = ended.end_mark
    return series(end.figures, ended_at=end.at_epoch_seconds) if end else ()


# On this machine nothing is allocated, and no job has a state.
_HERE = ("elapsed_seconds", "cpu_efficiency_pct", "max_memory_mb")


def metadata_here(metadata: MetadataOf, ended: Ended) -> dict[str, Any]:
    """The same of a payload that was a process of this machine.

    Args:
        metadata: What chooses figures, if it does.
        ended: How it ended.
    """
    end, wanted = ended.end_mark, getattr(metadata, "wanted", None)
    found = job_metrics(record_of_line("", end.figures, ended_at=end.at_epoch_seconds)) if end else {}
    return {name: found[name] for name in _HERE if name in found and (wanted is None or name in wanted)}


# In which order a reader of an asset's page has use for them; others follow.
_ORDER = (
    *("slurm_job_id", "slurm_state", "slurm_exit_code"),
    *("elapsed_seconds", "queue_wait_seconds", "node_hours"),
    *("cpu_efficiency_pct", "max_cpus_used", "max_memory_mb", "memory_efficiency_pct"),
)
_OF_GPUS = frozenset({"slurm_requested_gpus", "slurm_allocated_gpus"})


def _shown(found: Mapping[str, Any], *, has_gpus: bool) -> dict[str, Any]:
    """In order, and without the GPUs of a job that has asked for none and got none."""
    names = [*(name for name in _ORDER if name in found), *(name for name in found if name not in _ORDER)]
    return {name: found[name] for name in names if has_gpus or found[name] or name not in _OF_GPUS}


def _requested_gpus(request: JobRequest) -> dict[str, int]:
    """Sacct learns what a short job asked for after it has ended; what `gpus_per_node` says is known here."""
    by_other_means = {"gpus", "gpus-per-task", "gpus-per-socket", "gres", "tres-per-task"} & set(request.options)
    return {} if by_other_means else {"slurm_requested_gpus": request.gpus_per_node * request.nodes}
