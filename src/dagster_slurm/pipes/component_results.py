"""What the components of a heterogeneous job bring, and what of it is on record already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster import AssetCheckResult, AssetKey, Failure, MaterializeResult

from dagster_slurm.errors import DagsterSlurmError, InvalidRequestError
from dagster_slurm.pipes.dagster_private import already_materialized, materializations
from dagster_slurm.pipes.dagster_storage import one_transaction
from dagster_slurm.pipes.kept_values import KeptValues
from dagster_slurm.pipes.launch_key import lineage_of
from dagster_slurm.pipes.partition_results import CALL_METADATA, data_metadata, value_of
from dagster_slurm.pipes.session import UnitSession
from dagster_slurm.pipes.step import Step
from dagster_slurm.staging.collect import Collected
from dagster_slurm.staging.plan import RemotePath
from dagster_slurm.text import counted


@dataclass(frozen=True)
class ComponentResult:
    """What one component brought.

    Attributes:
        job_id: Its job: "12+1"; of one that was alone "12". Empty where it ran on this machine.
        result: Its materialisation, with its metadata; its asset checks stand in it.
        custom_messages: What the payload reported besides.
        outputs: Files that were fetched to this machine.
        kept: What stays on the cluster, by its name in the working directory.
    """

    job_id: str
    result: MaterializeResult[Any]
    custom_messages: Sequence[Any] = ()
    outputs: Sequence[Path] = ()
    kept: Mapping[str, RemotePath] = field(default_factory=dict)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What its materialisation carries."""
        return self.result.metadata or {}


class ComponentRecorder:
    """Puts the materialisations of components on record, each once, when it ends.

    Args:
        step: The step.
        name: The call's name, if it has one.
    """

    def __init__(self, step: Step, name: str | None) -> None:
        self._step = step
        # A function that is called directly has nothing to record.
        self._events = step.pipes.events() if step.run else None
        self._call = {} if name is None else {CALL_METADATA: name}
        self._values = KeptValues(self._events) if self._events else None
        self._unwritten: list[tuple[AssetKey, str | None, MaterializeResult[Any], Mapping[str, Any]]] = []
        self.results: dict[AssetKey, ComponentResult] = {}

    def take(
        self, key: AssetKey, session: UnitSession, metadata: Mapping[str, Any], *, job_id: str, collected: Collected
    ) -> None:
        """Take a component's materialisation.

        Raises:
            LocalStorageError: An IO manager cannot store where something is.
        """
        told = {**metadata, **data_metadata(collected), **self._call}
        made = session.materialized(told).get(key) or MaterializeResult(asset_key=key, metadata=told)
        messages = list(session.pipes.get_custom_messages())
        checks = [each for each in session.checks() if each.asset_key in (key, None)]
        result = _with_checks(made, checks)
        self.results[key] = ComponentResult(job_id, result, messages, collected.outputs, collected.kept)
        self._unwritten += [
            (key, partition, made, self._stored(key, partition, collected.kept)) for partition in self._partitions
        ]

    @property
    def _partitions(self) -> Sequence[str | None]:
        return self._step.partition_keys or (None,)

    def _stored(self, key: AssetKey, partition: str | None, kept: Mapping[str, RemotePath]) -> Mapping[str, Any]:
        """Of a component of several partitions, what it has kept under the name of each."""
        if self._values is None or not kept:
            return {}
        if partition is not None and len(self._partitions) > 1:
            if partition not in kept and self._values.are_taken(key):
                self._step.log.warning(
                    f"{key.to_user_string()}: no value was stored of partition {partition}: what stays on the cluster "
                    f"has its own name ({', '.join(kept)}). Have the payload leave something named as each partition"
                )
            kept = {name: path for name, path in kept.items() if name == partition}
        return self._values.store(key, partition, value_of(kept))

    def write(self) -> None:
        """Record what was taken."""
        unwritten, self._unwritten = self._unwritten, []
        if not unwritten or self._events is None:
            return
        with one_transaction(self._step.instance):
            for each in unwritten:
                self._events.materialize(*each)


class SlurmHetInvocation:
    """The end of `compute.run_hetjob`: every asset is on record.

    Attributes:
        components: The results of this call, by asset key, without those that an earlier attempt has recorded.
    """

    def __init__(self, step: Step, keys: Sequence[AssetKey], results: Mapping[AssetKey, ComponentResult]) -> None:
        self._step = step
        self._keys = tuple(keys)
        self.components: Mapping[AssetKey, ComponentResult] = dict(results)

    def get_results(self) -> Sequence[MaterializeResult[Any]]:
        """One for each asset, for the step to yield: nothing is recorded again, and steps after it go on."""
        return [self.get_materialize_result(key) for key in self._keys]

    def get_materialize_result(self, asset_key: AssetKey | str | Sequence[str] | None = None) -> MaterializeResult[Any]:
        """The same for one asset.

        Args:
            asset_key: Which; it may be left out where there is one.

        Raises:
            InvalidRequestError: It is not one of the call, or there are several.
        """
        if asset_key is None and len(self._keys) == 1:
            asset_key = self._keys[0]
        key = None if asset_key is None else AssetKey.from_coercible(asset_key)
        if key not in self._keys or key is None:
            names = ", ".join(each.to_user_string() for each in self._keys)
            raise InvalidRequestError(
                f"The call has no result for {key.to_user_string()!r}" if key else "The call has several results",
                hint=f"Its assets are {names}.",
            )
        found = self.components.get(key)
        if self._step.run is None and found is not None:
            return found.result
        return _with_checks(already_materialized(key), (found.result.check_results or ()) if found else ())


def _with_checks(result: MaterializeResult[Any], checks: Sequence[AssetCheckResult]) -> MaterializeResult[Any]:
    return MaterializeResult(
        asset_key=result.asset_key,
        metadata=result.metadata,
        check_results=list(checks),
        data_version=result.data_version,
        tags=result.tags,
    )


def recorded_assets(step: Step, origin_run_id: str, name: str | None) -> set[AssetKey]:
    """Which assets this run, and those that it retries, have on record.

    Args:
        step: The step.
        origin_run_id: The run in which the piece of work began.
        name: The call's name, if it has one.
    """
    found: set[AssetKey] = set()
    if step.run is None:
        return found
    for generation in lineage_of(step.instance, step.run, step.key):
        for made in materializations(step.instance, generation.run_id):
            if made.step_key == step.key and made.metadata.get(CALL_METADATA) == name:
                found.add(made.asset_key)
        if generation.run_id == origin_run_id:
            break
    return found


def components_failure(failed: Mapping[str, DagsterSlurmError], total: int) -> Failure:
    """The failure for a step of which some components have failed.

    Args:
        failed: Why, by asset, in the order in which they ended.
        total: How many components there are.
    """
    names = list(failed)
    first = failed[names[0]]
    cause, _, rest = str(first).partition("\n")
    others = "The others are materialised; a retry submits only these." if len(names) < total else ""
    listed = "".join(f"\n{name}: {str(failed[name]).partition(chr(10))[0]}" for name in names[1:])
    raised = Failure(
        f"{len(names)} of {counted(total, 'asset')} failed. {names[0]}: {cause}{listed}\n{others}"
        + (f"\nAsset {names[0]}: {rest}" if rest else ""),
        metadata={
            "slurm_failed_assets": names,
            "slurm_end": sorted({type(error).__name__ for error in failed.values()}),
        },
    )
    raised.__cause__ = first
    return raised
