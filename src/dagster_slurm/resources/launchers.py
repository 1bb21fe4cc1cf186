"""How a payload is started inside its allocation, as resources that users extend."""

from __future__ import annotations

from typing import Any

from dagster import ConfigurableResource
from pydantic import ConfigDict

from dagster_slurm.environments import Activation
from dagster_slurm.launchers import LaunchPlan, Payload, direct_plan


class ComputeLauncher(ConfigurableResource[Any]):
    """Base of all launchers. Extend it and override `plan`, which is pure: it only says what is to be done."""

    # A typo in a field's name is refused, not dropped.
    model_config = ConfigDict(extra="forbid")

    def plan(self, payload: Payload, activation: Activation) -> LaunchPlan:
        """What the batch script does to start the payload.

        Args:
            payload: What is run; `dagster_slurm.launchers.payload_command` has the command for each of its forms.
            activation: How its environment is entered, and its Python.
        """
        raise NotImplementedError(f"{type(self).__name__} has to override `plan`")


class BashLauncher(ComputeLauncher):
    """Runs the payload once, on the first node of the allocation."""

    def plan(self, payload: Payload, activation: Activation) -> LaunchPlan:
        return direct_plan(payload, activation)
