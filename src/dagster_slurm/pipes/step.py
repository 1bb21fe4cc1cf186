"""What Dagster knows of one step, as one value. Below the clients, functions take this and no context of Dagster's."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from dagster import AssetKey, DagsterError, DagsterInstance, DagsterLogManager, DagsterRun, OpExecutionContext

from dagster_slurm.pipes.dagster_private import StepContext, dagster_run, op_context, retry_number, step_key
from dagster_slurm.pipes.session import StepPipes

_ordinals: WeakKeyDictionary[OpExecutionContext, Iterator[int]] = WeakKeyDictionary()
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Step:
    """One step, made once for each call.

    Args:
        key: Its key, with the mapping key; for a function that is called directly, the name of its op.
        run: The run; None for a function that is called directly.
        instance: Where the run is recorded.
        log: Its log.
        retry_number: How often Dagster has tried it again.
        partition_keys: The partitions of the run, in their order; None for a run without.
        is_asset: Whether it belongs to a definition of assets.
        asset_keys: The assets it is to materialise, in order.
        asset_metadata: What these are defined with.
        pipes: Its ends of Dagster Pipes.
    """

    key: str
    run: DagsterRun | None
    instance: DagsterInstance
    log: DagsterLogManager
    retry_number: int
    partition_keys: tuple[str, ...] | None
    is_asset: bool
    asset_keys: tuple[AssetKey, ...]
    asset_metadata: Mapping[AssetKey, Mapping[str, Any]]
    pipes: StepPipes
    _calls: Iterator[int]

    @classmethod
    def of(cls, context: StepContext) -> Step:
        """The step of an asset, asset check or op.

        Raises:
            TypeError: It is no such context.
            dagster.DagsterError: It belongs to no step, as what `build_asset_context()` makes.
        """
        step = op_context(context)
        is_asset = step.has_assets_def
        asset_keys = tuple(sorted(step.selected_asset_keys))
        metadata = step.assets_def.metadata_by_key if is_asset else {}
        with _lock:
            calls = _ordinals.setdefault(step, itertools.count())
        return cls(
            step_key(step),
            dagster_run(step),
            step.instance,
            step.log,
            retry_number(step),
            _partition_keys(step),
            is_asset,
            asset_keys,
            {key: metadata.get(key, {}) for key in asset_keys},
            StepPipes(step),
            calls,
        )

    @classmethod
    def of_any(cls, context: StepContext | None) -> Step | None:
        """The same; None for no context, and for one that belongs to no step, as what `build_asset_context()` makes."""
        try:
            return None if context is None else cls.of(context)
        except DagsterError:
            return None

    def next_call(self) -> int:
        """The number of a call that has no name, among those of the step."""
        with _lock:
            return next(self._calls)


def _partition_keys(step: OpExecutionContext) -> tuple[str, ...] | None:
    if not step.has_partition_key and not step.has_partition_key_range:
        return None
    try:
        return tuple(step.partition_keys)
    except DagsterError:
        # What is not partitioned itself, and is called directly or in a run that is, has no list of partitions.
        named = step.partition_key_range
        return tuple(dict.fromkeys((named.start, named.end)))
