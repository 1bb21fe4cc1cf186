"""Which piece of work a `compute.run` call is."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Literal

from dagster_slurm.job.handle import LaunchKey, short_digest
from dagster_slurm.pipes.lineage import lineage_of, origins
from dagster_slurm.pipes.step import Step

Reattach = Literal["retry", "asset", "never"]


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


def piece_of_work(step: Step, name: str | None, reattach: Reattach) -> PieceOfWork:
    """The call's piece of work: named by its name or, without one, by its place among the calls of this step.

    With `reattach="never"`, and for a function that is called directly, each call is a piece of work of its own.
    """
    call = name if name is not None else str(step.next_call())
    partition_keys = step.partition_keys or ()
    assets = tuple(sorted(key.to_user_string() for key in step.asset_keys))
    digest = short_digest(list(assets), list(partition_keys), call) if assets else ""
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
