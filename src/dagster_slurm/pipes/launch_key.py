"""Which piece of work a `compute.run` call is."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from dagster import OpExecutionContext

from dagster_slurm.job.handle import LaunchKey
from dagster_slurm.pipes.dagster_private import retry_number, step_key

_ordinals: WeakKeyDictionary[OpExecutionContext, Iterator[int]] = WeakKeyDictionary()
_lock = threading.Lock()


def launch_key(context: OpExecutionContext, name: str | None) -> LaunchKey:
    """The key of the call: by its name or, without one, by its place among the calls of this step.

    Each retry of a step is a piece of work of its own.
    """
    retry = retry_number(context)
    call = name if name is not None else str(_ordinal(context))
    return LaunchKey(
        origin_run_id=context.run_id,
        step_key=step_key(context),
        partition_keys=tuple(context.partition_keys) if context.has_partition_key else (),
        call=f"{call}.retry{retry}" if retry else call,
    )


def _ordinal(context: OpExecutionContext) -> int:
    with _lock:
        return next(_ordinals.setdefault(context, itertools.count()))
