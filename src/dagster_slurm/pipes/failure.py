"""A failed payload as Dagster shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import Failure

from dagster_slurm.errors import JobFailedError, OutputNotFoundError


def failure(error: JobFailedError, metadata: Mapping[str, Any]) -> Failure:
    """Dagster's failure for a job's: the same text, the facts as metadata, the typed error as its cause."""
    facts = {f"slurm_{name}": value for name, value in error.facts.items()}
    kind = {"slurm_end": type(error).__name__, "slurm_is_worth_retrying": error.is_worth_retrying}
    described: dict[str, Any] = {**facts, **kind, **metadata}
    raised = Failure(str(error), metadata=described)
    raised.__cause__ = error
    return raised


def failure_without_output(error: OutputNotFoundError) -> Failure:
    """Dagster's failure for an output that is not there; it will not be there for a retry of the step either."""
    raised = Failure(str(error), metadata={"slurm_end": type(error).__name__}, allow_retries=False)
    raised.__cause__ = error
    return raised
