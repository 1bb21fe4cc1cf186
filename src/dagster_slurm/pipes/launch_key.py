"""Which piece of work a `compute.run` call is."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal
from weakref import WeakKeyDictionary

from dagster import OpExecutionContext

from dagster_slurm.job.handle import LaunchKey, short_digest
from dagster_slurm.pipes.dagster_private import dagster_run, retry_number, step_key
from dagster_slurm.pipes.lineage import lineage_of, origins

Reattach = Literal["retry", "asset", "never"]

_ordinals: WeakKeyDictionary[OpExecutionContext, Iterator[int]] = WeakKeyDictionary()
_lock = threading.Lock()


@dataclass(frozen=True)
class PieceOfWork:
    """What a `compute.run` call is to do, by name.

    Args:
        key: Its own key.
        others: Keys of the same step under earlier origins; a live job there is adopted.
        asset_digest: Stands for asset and partition, whatever the run; empty for what is not an asset.
        assets: The asset keys, for people.
    """

    key: LaunchKey
    others: tuple[LaunchKey, ...] = ()
    asset_digest: str = ""
    assets: tuple[str, ...] = ()


def piece_of_work(context: OpExecutionContext, name: str | None, reattach: Reattach) -> PieceOfWork:
    """The call's piece of work: named by its name or, without one, by its place among the calls of this step.

    With `reattach="never"`, and for a function that is called directly, each call is a piece of work of its own.
    """
    call = name if name is not None else str(_ordinal(context))
    partition_keys = tuple(context.partition_keys) if _is_partitioned(context) else ()
    assets = _assets(context)
    digest = short_digest(list(assets), list(partition_keys), call) if assets else ""
    run = dagster_run(context)
    if run is None:
        key = LaunchKey(f"direct-{uuid.uuid4().hex}", step_key(context), partition_keys, call)
        return PieceOfWork(key, assets=assets)
    if reattach == "never":
        key = LaunchKey(run.run_id, step_key(context), partition_keys, f"{call}.retry{retry_number(context)}")
        return PieceOfWork(key, asset_digest=digest, assets=assets)
    found = origins(lineage_of(context.instance, run, step_key(context)))
    key = LaunchKey(found.own, step_key(context), partition_keys, call)
    others = tuple(replace(key, origin_run_id=run_id) for run_id in found.others)
    return PieceOfWork(key, others, digest, assets)


def _is_partitioned(context: OpExecutionContext) -> bool:
    return context.has_partition_key or context.has_partition_key_range


def _assets(context: OpExecutionContext) -> tuple[str, ...]:
    if not context.has_assets_def:
        return ()
    return tuple(sorted(key.to_user_string() for key in context.selected_asset_keys))


def _ordinal(context: OpExecutionContext) -> int:
    with _lock:
        return next(_ordinals.setdefault(context, itertools.count()))
