"""`ComputeResource`s in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from dagster import (
    Component,
    ComponentLoadContext,
    Definitions,
    Model,
    ResolutionContext,
    Resolvable,
    Resolver,
    scaffold_with,
)
from pydantic import Field

from dagster_slurm.components.scaffold import FROM_ENV, ResourcesScaffolder
from dagster_slurm.components.written import made, model_of, values_in
from dagster_slurm.resources.compute import ComputeResource
from dagster_slurm.resources.slurm import SlurmResource

_MODELS: Any = dict[str, model_of(ComputeResource) | str]  # type: ignore[misc]


def _resolve(context: ResolutionContext, models: Any) -> dict[str, ComputeResource]:
    named = values_in(context, models)
    return {key: _resource(values_in(context.at_path(key), model)) for key, model in named.items()}


def _resource(values: Any) -> ComputeResource:
    if isinstance(values, ComputeResource):
        return values
    if values.get("slurm") == FROM_ENV:
        values["slurm"] = SlurmResource.from_env() if values.get("mode") != "local" else None
    resource: ComputeResource = made(ComputeResource, values)
    return resource


@scaffold_with(ResourcesScaffolder)
class SlurmResourcesComponent(Component, Resolvable, Model):
    """Resources of the type `ComputeResource`, with all their fields, by their keys.

    A text or a whole number may be `{env: NAME}`, which Dagster reads when a run begins and shows nowhere.
    `slurm: from_env` is the cluster of the environment variables, as `SlurmResource.from_env()` reads them; in mode
    `local` none is read.
    """

    resources: Annotated[Mapping[str, Any], Resolver(_resolve, model_field_type=_MODELS)] = Field(
        description="The resources, by the keys under which assets ask for them."
    )

    def build_defs(self, context: ComponentLoadContext) -> Definitions:
        """The resources, as definitions."""
        return Definitions(resources=self.resources)
