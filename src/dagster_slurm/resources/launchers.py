"""How a payload is started inside its allocation, as resources that users extend."""

from __future__ import annotations

import inspect
from typing import Any

from dagster import ConfigurableResource
from pydantic import ConfigDict

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.launchers import LaunchPlan, Payload, Place, Requirements, direct_plan
from dagster_slurm.resources import NamedFields
from dagster_slurm.slurm.request import JobRequest

_NOTHING = Requirements()
_IN_PLACE_OF_PREPARE_EXECUTION = """Replace it by

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        setup = (*place.activation.setup, "export OMP_NUM_THREADS=4")
        return LaunchPlan(setup, ("nice", *payload_command(payload, place.activation)))

with `from dagster_slurm import LaunchPlan, Payload, Place, payload_command`. See docs/migration.md#launchers."""


class ComputeLauncher(NamedFields, ConfigurableResource[Any]):
    """Base of all launchers. Extend it and override `plan`, and `requirements` if need be.

    Both are pure: they only say what is to be done, and may be called more than once.
    """

    model_config = ConfigDict(extra="forbid")

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse what starts a payload in a way that was another one's, or an older one.

        Raises:
            ConfigurationError: Its `plan` takes an `activation`, or it has `prepare_execution` of 1.22 in place of it.
        """
        super().__init_subclass__(**arguments)
        if "prepare_execution" in vars(cls) and cls.plan is ComputeLauncher.plan:
            raise ConfigurationError(
                f"{cls.__qualname__} has prepare_execution, as a launcher of dagster-slurm 1.22, and no plan",
                hint=_IN_PLACE_OF_PREPARE_EXECUTION,
            )
        if "activation" in inspect.signature(cls.plan).parameters:
            raise ConfigurationError(
                f"{cls.__qualname__}.plan takes an activation, and is called with a Place",
                hint="Write `def plan(self, payload, place)`, and `place.activation` for the activation.",
            )

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        """What is done to start the payload.

        Args:
            payload: What is run; `payload_command` has the command for each of its forms.
            place: Where: how its environment is entered, and what nodes, CPUs, GPUs and memory there are.

        Raises:
            InvalidRequestError: It cannot be said; nothing was submitted.
        """
        raise NotImplementedError(f"{type(self).__name__} has to override `plan`")

    def requirements(self, request: JobRequest | None) -> Requirements:
        """What it needs of the job, and why it cannot start a payload there; by default nothing.

        Args:
            request: What everybody but this launcher asks of Slurm; None on this machine, where options count for
                nothing, and refusals as they do in a job.
        """
        del request
        return _NOTHING


class BashLauncher(ComputeLauncher):
    """Runs the payload once, on the first node of the allocation."""

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        return direct_plan(payload, place)
