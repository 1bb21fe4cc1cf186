"""What users configure: connections, clusters, queues, launchers, and where an asset's payload runs.

Types of their fields are here, also for what Dagster resolves later: variables, and resources of the launchpad. Bounds
and choices hold for what a variable stands for as well: Dagster makes the resource anew with its value.
"""

from __future__ import annotations

import enum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from dagster import ConfigurableResource, EnvVar
from dagster_shared.libraries import DagsterLibraryRegistry
from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from dagster_slurm.version import __version__

# Its version stands beside those of Dagster's own integrations, in the UI and wherever a code location is described.
DagsterLibraryRegistry.register("dagster-slurm", __version__, is_dagster_package=False)

# What `EnvVar.int` returns is 0 until it is resolved: Dagster makes the resource anew with the number, and checks that.
_IntegerVariable = type(EnvVar.int("NAME"))


def _unless_variable(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, _IntegerVariable) else check(value)


_LATER = WrapValidator(_unless_variable)
Positive = Annotated[int, Field(ge=1), _LATER]
NotNegative = Annotated[int, Field(ge=0), _LATER]
ExitCode = Annotated[int, Field(ge=1, le=255), _LATER]
Port = Annotated[int, Field(ge=1, le=65535), _LATER]


def choice_of(*names: str) -> WrapValidator:
    """One of some words. For a `Literal` Dagster takes no variable."""

    def check(value: Any, as_text: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, EnvVar) or as_text(value) in names:
            return value
        *others, last = map(repr, names)
        raise ValueError(f"Input should be {', '.join(others)} or {last}")

    return WrapValidator(check)


class Choice(str):
    """A chosen word, with the attributes of the enum's member that code may expect."""

    @property
    def value(self) -> str:
        """The word."""
        return str(self)

    @property
    def name(self) -> str:
        """As the member is called."""
        return self.upper().replace("-", "_")


def as_choice(value: str) -> str:
    """A word, or a member of an enum of words, of which Dagster would configure the name; a variable stays one."""
    return value if isinstance(value, EnvVar) else Choice(value.value if isinstance(value, enum.Enum) else value)


class NamedFields:
    """A resource that refuses a field which is none of its own, by name; one of 1.22 becomes what it is here."""

    if not TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None:
            """As pydantic has it, which would name fields that are missing then as well."""
            if fields.keys() - type(self).model_fields.keys():
                from dagster_slurm.compat.fields import as_ours  # noqa: PLC0415 - for typos, and code of 1.22

                fields = as_ours(type(self), fields)
            super().__init__(**fields)


class _Any(ConfigurableResource[Any]):
    """Some resource."""


_PartialResource = type(_Any.configure_at_launch())


def _unless_partial(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, _PartialResource) else check(value)


LAUNCHPAD = WrapValidator(_unless_partial)
"""A nested resource may be `configure_at_launch()`, as Dagster itself has it for one that is required."""

_Resource = TypeVar("_Resource", bound=ConfigurableResource[Any])
_unsaid: dict[type, Any] = {}


def unsaid(kind: type[_Resource]) -> _Resource:
    """A resource of which nothing is said, made once: Dagster infers a schema for each that is made, 2 ms of CPU.

    Args:
        kind: Its class.
    """
    if kind not in _unsaid:
        _unsaid[kind] = kind()
    return cast(_Resource, _unsaid[kind])


# What 1.22 has here, and is in `dagster_slurm` itself.
_PUBLIC = ("ComputeResource", "SSHConnectionResource", "SlurmQueueConfig", "SlurmResource", "SlurmSessionResource")


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("dagster_slurm"), name)
