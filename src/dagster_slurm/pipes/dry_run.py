"""Dry runs: in this process, calls of the compute resource say what they would do, and end the step.

For `dagster-slurm plan`, whose process does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NoReturn, TypeVar

from dagster_slurm.errors import ConfigurationError, DagsterSlurmError

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
