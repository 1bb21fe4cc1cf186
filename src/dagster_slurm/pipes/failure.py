"""A failed payload as Dagster shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import Failure

from dagster_slurm.errors import JobFailedError


def failure(error: JobFailedError, metadata: Mapping[str, Any]) -> Failure:
    """Dagster's failure for a job's: the same text, the facts as metadata, the typed error as its cause."""
    raised = Failure(str(error), metadata=dict(metadata))
    raised.__cause__ = error
    return raised
