"""How a payload is started inside its allocation, as resources that users extend."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import takewhile
from typing import Any, cast

from dagster import ConfigurableResource, EnvVar
from pydantic import ConfigDict

from dagster_slurm.errors import ConfigurationError, InvalidRequestError
from dagster_slurm.launchers import LaunchPlan, Payload, Place, Requirements, direct_plan
from dagster_slurm.slurm.request import JobRequest, merge, merge_named
from dagster_slurm.work.spec import BUILT_IN, LAUNCHER, Said

_NOTHING = Requirements()
_VARIABLES = (EnvVar, type(EnvVar.int("")))


class ComputeLauncher(ConfigurableResource[Any]):
    """Base of all launchers. Extend it and override `plan`, and `requirements` if need be.

    Both are pure: they only say what is to be done, and may be called more than once.
    """

    # A typo in a field's name is refused, not dropped.
    model_config = ConfigDict(extra="forbid")

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse a `plan` that was written before launchers were told where a payload is started.

        Raises:
            ConfigurationError: It takes an `activation`.
        """
        super().__init_subclass__(**arguments)
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


def chosen_launcher(given: Mapping[str, ComputeLauncher | None]) -> Said:
    """The first that is given; what it leaves open, those behind it say, as long as they are of its type.

    Args:
        given: The launchers by their sources, the one that wins first; there has to be one.
    """
    launchers = [(source, launcher) for source, launcher in given.items() if launcher is not None]
    source, first = launchers[0]
    alike = takewhile(lambda each: type(each[1]) is type(first), launchers)
    fields: dict[str, Said] = {}
    for whose, launcher in reversed(list(alike)):
        fields |= {name: Said(getattr(launcher, name), whose) for name in launcher.model_fields_set}
    values = {name: said.value for name, said in fields.items()}
    return Said(_with_variables(type(first)(**values)), source, dict(sorted(fields.items())))


def requested(
    launcher: ComputeLauncher, layers: Mapping[str, Mapping[str, object]]
) -> tuple[JobRequest, Mapping[str, str]]:
    """What to ask Slurm for, with what a launcher needs.

    Args:
        launcher: The launcher.
        layers: The options by their sources, the one that wins last; the first is `BUILT_IN`.

    Returns:
        As `merge_named`.

    Raises:
        InvalidRequestError: An option is wrong, or the launcher refuses the request.
        ConfigurationError: An option that the launcher needs is wrong.
    """
    asked = merge_named(layers)
    needed = requirements_of(launcher, asked[0])
    if not needed.options:
        return asked
    try:
        merge(needed.options)
    except InvalidRequestError as error:
        what = f"{type(launcher).__name__}.requirements: {error.message}"
        raise ConfigurationError(what, hint=error.hint) from error
    return merge_named({BUILT_IN: layers[BUILT_IN], LAUNCHER: needed.options, **layers})


def requirements_of(launcher: ComputeLauncher, request: JobRequest | None) -> Requirements:
    """What a launcher needs.

    Raises:
        InvalidRequestError: It refuses the request.
    """
    needed = launcher.requirements(request)
    if needed.refusals:
        raise InvalidRequestError(f"{type(launcher).__name__} cannot start the payload: {'; '.join(needed.refusals)}")
    return needed


def _with_variables(launcher: ComputeLauncher) -> ComputeLauncher:
    """The values of environment variables, which Dagster puts into the resources of a run alone."""
    if not _names_variable(launcher):
        return launcher
    with launcher.process_config_and_initialize_cm() as ready:
        return cast("ComputeLauncher", ready)


def _names_variable(value: object) -> bool:
    if isinstance(value, ConfigurableResource):
        value = [getattr(value, name) for name in value.model_fields_set]
    if isinstance(value, Mapping):
        value = list(value.values())
    return any(map(_names_variable, value)) if isinstance(value, list | tuple) else isinstance(value, _VARIABLES)
