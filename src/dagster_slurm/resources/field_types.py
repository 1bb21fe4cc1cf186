"""Numbers of resources, with their bounds, which hold for what an `EnvVar.int` stands for as well."""

from __future__ import annotations

from typing import Annotated, Any

from dagster import EnvVar
from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

# What `EnvVar.int` returns is 0 until it is resolved: Dagster makes the resource anew with the number, and checks that.
_IntegerVariable = type(EnvVar.int("NAME"))


def _unless_variable(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, _IntegerVariable) else check(value)


_LATER = WrapValidator(_unless_variable)
Positive = Annotated[int, Field(ge=1), _LATER]
NotNegative = Annotated[int, Field(ge=0), _LATER]
ExitCode = Annotated[int, Field(ge=1, le=255), _LATER]
Port = Annotated[int, Field(ge=1, le=65535), _LATER]
