"""What Dagster knows of a step, as one value, and how a dry run or a failure ends it.

Below the clients, nothing takes a context.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar
from weakref import WeakKeyDictionary

from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterError,
    DagsterInstance,
    DagsterLogManager,
    DagsterRun,
    Failure,
    MetadataValue,
    OpExecutionContext,
)

from dagster_slurm.errors import ConfigurationError, DagsterSlurmError, JobFailedError
from dagster_slurm.pipes.dagster_private import (
    StepContext,
    dagster_run,
    is_of_graph,
    log_engine_event,
    op_context,
    retry_number,
    step_key,
)
from dagster_slurm.pipes.session import StepPipes
from dagster_slurm.text import counted

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
        is_of_graph: Whether it is one of the steps of a graph asset, or one of those that are mapped.
        asset_keys: The assets it is to materialise, in order.
        asset_metadata: What these are defined with, and then the asset checks of the step.
        pipes: Its ends of Dagster Pipes.
        calls: The numbers of its calls that have no name, each given once.
    """

    key: str
    run: DagsterRun | None
    instance: DagsterInstance
    log: DagsterLogManager
    retry_number: int
    partition_keys: tuple[str, ...] | None
    is_asset: bool
    is_of_graph: bool
    asset_keys: tuple[AssetKey, ...]
    asset_metadata: Mapping[AssetKey | AssetCheckKey, Mapping[str, Any]]
    pipes: StepPipes
    calls: Iterator[int]

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
        said: dict[AssetKey | AssetCheckKey, Mapping[str, Any]] = {key: metadata.get(key, {}) for key in asset_keys}
        for check in sorted(step.selected_asset_check_keys) if is_asset else ():
            said[check] = step.assets_def.get_spec_for_check_key(check).metadata
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
            is_asset and is_of_graph(step),
            asset_keys,
            said,
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

    def tell(self, message: str, rows: Mapping[str, str], *, url: str = "", begins: str = "", ends: str = "") -> None:
        """Log what has happened, with rows that a reader can copy; a line where there is no run.

        Args:
            message: What.
            rows: Their names and texts.
            url: Where a page has more of it.
            begins: The name of a span in the run's time line that begins here.
            ends: The name of one that ends here.
        """
        if self.run is None:
            self.log.info(message)
            return
        said = {name: MetadataValue.text(text) for name, text in rows.items()}
        page = {"page": MetadataValue.url(url)} if url else {}
        log_engine_event(self.log, self.run, message, {**page, **said}, step_key=self.key, begins=begins, ends=ends)


def _partition_keys(step: OpExecutionContext) -> tuple[str, ...] | None:
    if not step.has_partition_key and not step.has_partition_key_range:
        return None
    try:
        return tuple(step.partition_keys)
    except DagsterError:
        # What is not partitioned itself, and is called directly or in a run that is, has no list of partitions.
        named = step.partition_key_range
        return tuple(dict.fromkeys((named.start, named.end)))


T = TypeVar("T")

_is_on = False


class StepStopped(BaseException, Generic[T]):
    """A call was planned; the step goes no further.

    Not an Exception: neither the asset's own `except Exception` nor a retry policy of Dagster's is to go on from here.

    Attributes:
        plan: What the call would do.
    """

    def __init__(self, plan: T) -> None:
        super().__init__("The call was planned; nothing after it is reached")
        self.plan = plan


class PlanRefused(BaseException):
    """A call could not be planned; the step goes no further.

    Attributes:
        error: What the call would raise.
    """

    def __init__(self, error: DagsterSlurmError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def dry_run() -> Iterator[None]:
    """Let nothing be run by this process, on whatever thread."""
    global _is_on  # noqa: PLW0603 - it is meant for the whole process
    _is_on = True
    try:
        yield
    finally:
        _is_on = False


def stop_in_dry_run(plan: Callable[[], T]) -> None:
    """In a dry run, end the step with the plan; otherwise do nothing.

    Raises:
        StepStopped: It is a dry run.
        PlanRefused: It is one, and the call would be refused.
    """
    if not _is_on:
        return
    try:
        made = plan()
    except DagsterSlurmError as error:
        stop(error)
    raise StepStopped(made)


def refuse_in_dry_run(what: str) -> None:
    """In a dry run, end the step before something is run that is not planned; otherwise do nothing.

    Raises:
        PlanRefused: It is a dry run.
    """
    if _is_on:
        stop(ConfigurationError(f"{what} cannot be planned", hint="`ComputeResource.run` can."))


def stop(error: DagsterSlurmError) -> NoReturn:
    """End the step of a dry run with an error.

    Raises:
        PlanRefused: Always.
    """
    raise PlanRefused(error) from error


ERROR_METADATA = "slurm_error"
_MOST_NAMED = 20
_log = logging.getLogger(__name__)


def of_call(error: DagsterSlurmError) -> Failure:
    """The failure for what a call raises; a RetryPolicy does not try it again where the same again ends the same."""
    # A screen of frames hides what its text says; whoever looks for a fault of ours has them in the debug log.
    _log.debug("A call has failed", exc_info=error)
    metadata = {ERROR_METADATA: type(error).__name__}
    raised = Failure(str(error), metadata=metadata, allow_retries=not error.is_of_request)
    raised.__cause__ = error.with_traceback(None)
    return raised


def failure(error: DagsterSlurmError, metadata: Mapping[str, Any]) -> Failure:
    """The failure for a payload's: the facts are its metadata."""
    kind: dict[str, Any] = {"slurm_end": type(error).__name__}
    if isinstance(error, JobFailedError):
        facts = {f"slurm_{name}": value for name, value in error.facts.items()}
        kind |= {**facts, "slurm_is_worth_retrying": error.is_worth_retrying, **metadata}
    # An output that is not there will not be there for a retry of the step either.
    raised = Failure(str(error), metadata=kind, allow_retries=isinstance(error, JobFailedError))
    raised.__cause__ = error
    return raised


def partitions_failure(failed: Mapping[str, DagsterSlurmError], total: int) -> Failure:
    """The failure for a step of which some partitions have failed, in whatever order they ended."""
    ordered = sorted(failed)
    named = ordered[:_MOST_NAMED]
    more = f" and {len(failed) - len(named)} more" if len(failed) > len(named) else ""
    first = failed[named[0]]
    cause, _, rest = str(first).partition("\n")
    raised = Failure(
        f"{len(failed)} of {counted(total, 'partition')} failed. {named[0]}: {cause}\n"
        f"Failed: {', '.join(named)}{more}. The others are materialised; a retry submits only these."
        + (f"\nPartition {named[0]}: {rest}" if rest else ""),
        metadata={
            "slurm_failed_partitions": ordered,
            "slurm_end": sorted({type(error).__name__ for error in failed.values()}),
        },
    )
    raised.__cause__ = first
    return raised


def terminated(what: object) -> Failure:
    """The failure for a run that was terminated: Dagster's own exception would let a RetryPolicy run the body again."""
    return Failure(f"The run was terminated: {what}", allow_retries=False)
