"""How a call ends that has not succeeded: Dagster's `Failure`, with the error's text; the typed error is its cause."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dagster import Failure

from dagster_slurm.errors import DagsterSlurmError, JobFailedError

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
        f"{len(failed)} of {total} partitions failed. {named[0]}: {cause}\n"
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
