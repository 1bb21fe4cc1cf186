"""What a profile says, as resources: below what a user says, and above what is built in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from dagster import ConfigurableResource
from pydantic import ValidationError

from dagster_slurm.profiles import profile_of
from dagster_slurm.resources.environments import ModuleEnvironment
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.parallel_launchers import LAUNCHERS
from dagster_slurm.work.spec import BUILT_IN, Said

T = TypeVar("T", bound=ConfigurableResource[Any])

_SECTIONS = ("ssh", "queue", "gpus", "launchers", "environment")
# What cannot stand in one, by the class whose field it is.
_AS_VARIABLE = "It is a secret: give it as an `EnvVar`, in the code or by the variables of the way to the login node."
_INSTEAD: Mapping[str, Mapping[str, str]] = {
    "SlurmResource": {"profile": "A profile is not made of others."},
    "SSHConnectionResource": {"password": _AS_VARIABLE},
    "RayLauncher": {"redis_password": _AS_VARIABLE},
}


class SiteProfile:
    """A profile of which every part can be used.

    Args:
        name: Its name.
        cluster: `SlurmResource`.
        queue: `SlurmQueueConfig`.
        way: `SSHConnectionResource`.

    Raises:
        ConfigurationError: There is none, or something in it is not known or cannot be used.
    """

    def __init__(
        self,
        name: str,
        cluster: type[Any],
        queue: type[Any],
        way: type[Any],
    ) -> None:
        self._profile = profile_of(name)
        self._cluster, self._queue, self._way = cluster, queue, way
        self._source = f"profile {name}"
        self._refuse_what_is_wrong()

    def _refuse_what_is_wrong(self) -> None:
        known = {**_allowed(self._cluster), **dict.fromkeys(_SECTIONS, "")}
        self._profile.refuse_unknown(self._profile.values, known)
        self.option_layers()
        self.own_fields()
        launchers = self._profile.section("launchers")
        self._profile.refuse_unknown(launchers, dict.fromkeys(LAUNCHERS, ""), "launchers.")
        for kind in launchers:
            self._launcher(LAUNCHERS[kind])
        self._environment()

    def option_layers(self) -> dict[str, dict[str, object]]:
        """The options of sbatch, as layers; those of the second are for jobs with GPUs alone."""
        return {self._source: self._options("queue"), f"{self._source} (gpus)": self._options("gpus")}

    def _options(self, name: str) -> dict[str, object]:
        queue = self._made(self._queue, self._profile.section(name), name)
        layer: dict[str, object] = self._cluster(queue=queue).option_layers()["resource"]
        return layer

    def own_fields(self) -> dict[str, Any]:
        """The fields of `SlurmResource` that it fills, but for `queue`."""
        values = {name: value for name, value in self._profile.values.items() if name not in _SECTIONS}
        made = self._made(self._cluster, values, "it")
        ssh = self._way_of(self._profile.section("ssh"), "ssh")
        return {**{name: getattr(made, name) for name in values}, **({"ssh": ssh} if ssh else {})}

    def _way_of(self, values: dict[str, Any], where: str) -> Any:
        jump = values.pop("jump_host", None)
        if jump is not None:
            values["jump_host"] = self._way_of(dict(jump), f"{where}.jump_host")
        return self._made(self._way, values, where) if values else None

    def _launcher(self, kind: type[ComputeLauncher]) -> ComputeLauncher | None:
        """What it says of the launcher of a type; None if it says nothing."""
        name = next((name for name, each in LAUNCHERS.items() if each is kind), "")
        values = self._profile.section("launchers").get(name)
        return None if not values else self._made(kind, values, f"launchers.{name}")

    def _environment(self) -> ModuleEnvironment | None:
        values = self._profile.section("environment")
        return self._made(ModuleEnvironment, values, "environment") if values else None

    def _made(self, resource: type[T], values: Mapping[str, Any], where: str) -> T:
        self._profile.refuse_unknown(values, _allowed(resource), f"{where}.")
        try:
            return resource(**values)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(map(str, fault["loc"]))
            raise self._profile.fault(f"{where}.{field} is not usable: {fault['msg']}", "Correct it.") from None

    def settings(
        self, said: Mapping[str, Said], chosen: Callable[[Mapping[str, ComputeLauncher | None]], Said]
    ) -> dict[str, Said]:
        """Its own name with where it stands, and the launcher, with what it says of those of that type.

        Args:
            said: The settings of a call.
            chosen: How launchers are merged, by who says them.
        """
        found = {"profile": Said(self._profile.name, self._profile.origin)}
        launcher = said["launcher"]
        weaker = self._launcher(type(launcher.value))
        if weaker is None:
            return found
        own = type(launcher.value)(**{name: part.value for name, part in launcher.parts.items()})
        both = chosen({launcher.source: own, self._source: weaker})
        parts = {name: launcher.parts.get(name, part) for name, part in both.parts.items()}
        return {**found, "launcher": replace(both, parts=parts)}

    def environment(self, said: Said) -> Said:
        """What payloads run in: its own, where nobody has named anything, and the project has no lock file."""
        own = self._environment()
        if own is None or said.source != BUILT_IN or said.value.title:
            return said
        return Said(own.provider(), self._source)


def _allowed(resource: type[Any]) -> dict[str, str]:
    return {**dict.fromkeys(resource.model_fields, ""), **_INSTEAD.get(resource.__name__, {})}
