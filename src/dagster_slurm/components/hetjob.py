"""Assets of one heterogeneous job, in YAML. Dagster reads annotations of this module: they are no strings."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from dagster import (
    AssetExecutionContext,
    Component,
    ComponentLoadContext,
    Definitions,
    Model,
    ResolutionContext,
    Resolvable,
    ResolvedAssetSpec,
    Resolver,
    multi_asset,
)
from pydantic import Field

from dagster_slurm.components.arguments import RunModel, arguments_of, payload_at, with_paths
from dagster_slurm.components.script import of_our_kind
from dagster_slurm.components.written import made, values_in, written
from dagster_slurm.errors import ConfigurationError
from dagster_slurm.resources.compute import ComputeResource
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.settings import SlurmRunConfig


def _launcher(context: ResolutionContext, model: Any) -> Any:
    return made(ComputeLauncher, values_in(context, model))


def _requirements(context: ResolutionContext, model: Any) -> Any:
    return arguments_of(context, {"extra_slurm_opts": model or {}})["extra_slurm_opts"]


class HetPart(Model, Resolvable):
    """One component of the job."""

    asset: Annotated[ResolvedAssetSpec, Resolver.default(description="The asset that its payload makes.")]
    path: str = Field(description="Its payload, as `execution.path` of a `SlurmScriptComponent`.")
    requirements: Annotated[
        Mapping[str, Any],
        Resolver(
            _requirements,
            model_field_type=dict[str, Any],
            description="What it asks of Slurm: fields of `SlurmQueueConfig`, and any other long option of sbatch.",
        ),
    ] = Field(default={})
    launcher: Annotated[
        Any,
        Resolver(
            _launcher,
            model_field_type=written(ComputeLauncher) | None,
            description="How it is started; that of `run` or of the resource by default.",
        ),
    ] = None


class SlurmHetJobComponent(Component, Resolvable, Model):
    """Assets whose payloads begin together in one heterogeneous job, each on nodes of its own shape.

    They are made by one step, which calls `ComputeResource.run_hetjob`. The launchpad takes what `SlurmRunConfig` has.
    """

    components: Annotated[
        list[HetPart], Resolver.default(description="The components of the job, each with its asset.")
    ] = Field(min_length=1)
    name: Annotated[str | None, Resolver.default(description="Name of the step; that of the first asset.")] = None
    on_failure: Annotated[
        Literal["wait", "cancel"],
        Resolver.default(
            description="What becomes of the others when one fails: they end by themselves, or are ended."
        ),
    ] = "wait"
    run: Annotated[
        Mapping[str, Any],
        Resolver(
            arguments_of,
            model_field_type=RunModel,
            description="Arguments of `ComputeResource.run_hetjob` for all components.",
        ),
    ] = Field(default={})
    resource_key: Annotated[str, Resolver.default(description="The key of the `ComputeResource`.")] = "compute"

    def build_defs(self, context: ComponentLoadContext) -> Definitions:
        """The assets, as definitions.

        Raises:
            ConfigurationError: `run` has an argument of arrays.
        """
        if "max_parallel" in self.run:
            raise ConfigurationError(
                f"The component in {context.path} has max_parallel, and its components begin together",
                hint="Leave it out: it is for runs of several partitions.",
            )
        arguments = with_paths(self.run, context.path)
        common = arguments.pop("launcher", None)
        assets = [
            (part.asset.key, payload_at(part.path, context.path), dict(part.requirements)) for part in self.components
        ]
        launchers = {
            part.asset.key: launcher for part in self.components if (launcher := part.launcher or common) is not None
        }

        @multi_asset(
            name=self.name or self.components[0].asset.key.to_python_identifier(),
            specs=[of_our_kind(part.asset) for part in self.components],
            required_resource_keys={self.resource_key},
        )
        def together(context: AssetExecutionContext, config: SlurmRunConfig) -> Iterator[Any]:
            compute: ComputeResource = getattr(context.resources, self.resource_key)
            given = {**arguments, "config": config}
            yield from compute.run_hetjob(context, assets, launchers, on_failure=self.on_failure, **given).get_results()

        return Definitions(assets=[together])
