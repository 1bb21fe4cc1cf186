"""A failed payload as Dagster shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import Failure

from dagster_slurm.errors import DagsterSlurmError, JobFailedError


def failure(error: DagsterSlurmError, metadata: Mapping[str, Any]) -> Failure:
    """Dagster's failure for a payload's: the same text, the facts as metadata, the typed error as its cause."""
    kind: dict[str, Any] = {"slurm_end": type(error).__name__}
    if isinstance(error, JobFailedError):
        facts = {f"slurm_{name}": value for name, value in error.facts.items()}
        raised = Failure(
            str(error), metadata={**facts, **kind, "slurm_is_worth_retrying": error.is_worth_retrying, **metadata}
        )
    else:
        # An output that is not there will not be there for a retry of the step either.
        raised = Failure(str(error), metadata=kind, allow_retries=False)
    raised.__cause__ = error
    return raised
