"""The one file that touches what Dagster does not document. Each function says what it stands for."""

from __future__ import annotations

from typing import Any

from dagster import AssetCheckExecutionContext, AssetExecutionContext, OpExecutionContext
from dagster._check import CheckError
from dagster._core.errors import DagsterInvalidPropertyError

__all__ = ["CheckError", "StepContext", "op_context", "retry_number", "step_key"]

StepContext = AssetExecutionContext | OpExecutionContext | AssetCheckExecutionContext
"""What a step's function is given, whatever kind of step it is."""


def step_key(context: OpExecutionContext) -> str:
    """The step's key, with its mapping key; for a function that is called directly, the name of its op.

    No public name leads to the key: `OpExecutionContext` offers it only through `get_step_execution_context`.
    """
    try:
        return context.get_step_execution_context().step.key
    except DagsterInvalidPropertyError:
        return context.op_def.name


def retry_number(context: OpExecutionContext) -> int:
    """How often the step was retried; a function that is called directly never is, and has no such property."""
    try:
        return context.retry_number
    except (AttributeError, DagsterInvalidPropertyError):
        return 0


def op_context(context: StepContext) -> OpExecutionContext:
    """The op context behind an asset's or an asset check's, which all of them carry.

    Raises:
        TypeError: It is none of them.
    """
    inner: Any = getattr(context, "op_execution_context", None)
    if inner is None:
        raise TypeError(f"context is an asset, asset check or op context, not {type(context).__name__}")
    return inner  # type: ignore[no-any-return]
