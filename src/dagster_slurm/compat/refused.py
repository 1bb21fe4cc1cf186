"""Names of dagster-slurm 1.22 that have no counterpart: they can be imported, and are refused at their first use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from dagster_slurm.errors import ConfigurationError

PAGE = "docs/migration.md"

_ALLOCATIONS = (
    "#allocations",
    "An allocation is not handed to code: each call is a job of its own, and sessions share one among calls.",
)
_RELAY = (
    "#relay",
    "A payload that needs more than its walltime exits with `continue_exit_code`, and goes on in a further job from "
    "its checkpoint.",
)
_ELASTIC = (
    "#elastic",
    "No job joins or leaves a Ray cluster that runs: ask for all nodes of it at once, with `num_nodes`.",
)
_MODULES = ("#modules", "It is an inner part of that package.")
_LOGIN = ("#before-connect", "`SSHConnectionResource(before_connect=...)` runs a command before a login.")

_INSTEAD: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "SlurmAllocation": _ALLOCATIONS,
        "SlurmAllocationEnded": _RELAY,
        "SlurmStepDrained": _RELAY,
        "SlurmStepExecutionResult": _RELAY,
        "SlurmWorkerAllocationConfig": _ELASTIC,
        "run_with_ray_reserve_topup": _ELASTIC,
        "wait_for_stable_ray_resources": (
            "#ray-helpers",
            "The payload is started when all nodes have joined: the call can be left out.",
        ),
        "ExecutionPlan": (
            "#launchers",
            "A launcher returns `LaunchPlan(setup, command, hooks)` from `plan(self, payload, place)`.",
        ),
        "StepOIDCAuthProvider": _LOGIN,
    }
)


def refusal(name: str, of: str | None = None) -> ConfigurationError:
    """Why a name of 1.22 cannot be used, and what to use; for a name that nobody has heard of as well.

    Args:
        name: As it is written.
        of: The name whose reason it shares; its own by default.
    """
    anchor, instead = _INSTEAD.get(of or name, _MODULES)
    return ConfigurationError(
        f"{name} of dagster-slurm 1.22 has no counterpart here", hint=f"{instead} See {PAGE}{anchor}."
    )


class Refused(type):
    """The type of classes that refuse whatever is made of them, but for `except` and annotations."""

    def __call__(cls, *arguments: Any, **options: Any) -> NoReturn:
        """Refuse an instance.

        Raises:
            ConfigurationError: Always.
        """
        raise refusal(cls.__name__)

    def __getattr__(cls, name: str) -> NoReturn:
        """Refuse what is looked for in it.

        Raises:
            ConfigurationError: Always, but for what Python itself looks for.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        raise refusal(cls.__name__)

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any], **options: Any) -> None:
        """Refuse a class that is derived from one.

        Raises:
            ConfigurationError: It is.
        """
        super().__init__(name, bases, space, **options)
        for base in bases:
            if isinstance(base, Refused):
                raise refusal(base.__name__)


class SlurmAllocation(metaclass=Refused):
    """An allocation, in code of 1.22; refused at its first use."""


class SlurmWorkerAllocationConfig(metaclass=Refused):
    """Nodes that join a Ray cluster, in code of 1.22; refused at its first use."""


class SlurmStepExecutionResult(metaclass=Refused):
    """What a step of an allocation came to, in code of 1.22; refused at its first use."""


class SlurmAllocationEnded(Exception, metaclass=Refused):  # noqa: N818 - its name in 1.22
    """The end of an allocation, in code of 1.22: nothing raises it."""


class SlurmStepDrained(Exception, metaclass=Refused):  # noqa: N818 - its name in 1.22
    """A step that made room for the next allocation, in code of 1.22: nothing raises it."""


def run_with_ray_reserve_topup(*arguments: Any, **options: Any) -> NoReturn:
    """Of payloads of 1.22.

    Raises:
        ConfigurationError: Always; it says what to use.
    """
    raise refusal("run_with_ray_reserve_topup")


def wait_for_stable_ray_resources(*arguments: Any, **options: Any) -> NoReturn:
    """Of payloads of 1.22.

    Raises:
        ConfigurationError: Always; it says what to use.
    """
    raise refusal("wait_for_stable_ray_resources")


FUNCTIONS = ("run_with_ray_reserve_topup", "wait_for_stable_ray_resources")
"""Those of the names that are functions."""


def refused(name: str) -> type:
    """A class of that name which refuses, for a name of a module of 1.22 that is not public there."""
    return Refused(name, (), {"__doc__": f"{name} of 1.22; refused at its first use."})
