"""Assets of one payload, in YAML. Dagster reads annotations of this module: they are no strings."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from dagster import (
    AssetCheckExecutionContext,
    AssetChecksDefinition,
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    BackfillPolicy,
    Backoff,
    Component,
    ComponentLoadContext,
    Definitions,
    Jitter,
    MaterializeResult,
    Model,
    ResolutionContext,
    Resolvable,
    ResolvedAssetCheckSpec,
    ResolvedAssetSpec,
    Resolver,
    RetryPolicy,
    multi_asset,
    multi_asset_check,
    scaffold_with,
)
from pydantic import Field

from dagster_slurm.components.arguments import RunModel, arguments_of, payload_at, with_paths
from dagster_slurm.components.scaffold import ScriptScaffolder
from dagster_slurm.components.written import values_in
from dagster_slurm.errors import ConfigurationError
from dagster_slurm.pipes.partition_results import SlurmCompletedInvocation, value_of, with_value
from dagster_slurm.resources.compute import ComputeResource
from dagster_slurm.resources.settings import SlurmRunConfig

KIND = "slurm"
"""The kind of assets whose payloads this package runs."""
_MOST_KINDS = 10
_IO_MANAGER = "dagster/io_manager_key"
"""The metadata that `AssetSpec.with_io_manager_key` sets."""


class BackfillModel(Model):
    """How a backfill is cut into runs."""

    type: Literal["single_run", "multi_run"] = Field(description="All partitions in one run, or several runs.")
    max_partitions_per_run: int = Field(default=1, description="With `multi_run`: how many partitions one run has.")


class RetryModel(Model):
    """How often Dagster tries the step again, whatever it has failed of; the job of the attempt before is taken up."""

    max_retries: int | str = Field(default=1, description="How many attempts there may be after the first.")
    delay: float | str | None = Field(default=None, description="Seconds before each of them.")
    backoff: Literal["linear", "exponential"] | None = Field(default=None, description="How the delay grows.")
    jitter: Literal["full", "plus_minus"] | None = Field(default=None, description="How it is spread by chance.")


def _backfill_policy(context: ResolutionContext, model: Any) -> Any:
    values = values_in(context, model)
    if not isinstance(values, Mapping):
        return values
    if values["type"] == "single_run":
        return BackfillPolicy.single_run()
    return BackfillPolicy.multi_run(values.get("max_partitions_per_run", 1))


def _retry_policy(context: ResolutionContext, model: Any) -> Any:
    values = values_in(context, model)
    if not isinstance(values, Mapping):
        return values
    policy: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    for name, words in (("backoff", Backoff), ("jitter", Jitter)):
        if name in policy:
            policy[name] = words(policy[name].upper())
    return RetryPolicy(**policy)


class ScriptExecution(Model, Resolvable):
    """The payload, and the step that runs it."""

    path: str = Field(
        description="The payload: a `.py` or `.sh` file, a program, or a directory with `__main__.py`, relative to "
        "this file; or `-m package.module`, or `package.module:function`."
    )
    name: Annotated[
        str | None, Resolver.default(description="Name of the step; that of the first asset by default.")
    ] = None
    description: Annotated[str | None, Resolver.default(description="What it does.")] = None
    tags: Annotated[dict[str, Any] | None, Resolver.default(description="Tags of the step.")] = None
    pool: Annotated[
        str | None, Resolver.default(description="The pool that limits how many such steps run at once.")
    ] = None
    backfill_policy: Annotated[
        BackfillPolicy | None,
        Resolver(
            _backfill_policy,
            model_field_type=BackfillModel | None,
            description="How a backfill is cut into runs; one that has several partitions becomes one job array.",
        ),
    ] = None
    retry_policy: Annotated[
        RetryPolicy | None,
        Resolver(
            _retry_policy,
            model_field_type=RetryModel | None,
            description="Dagster's own; that of the job, by the cause of its end, is `run.retry_policy`.",
        ),
    ] = None


@scaffold_with(ScriptScaffolder)
class SlurmScriptComponent(Component, Resolvable, Model):
    """Assets and asset checks that one payload makes, on this machine or as a Slurm job.

    All of them are made by one step, which calls `ComputeResource.run`, or `run_partitions` where its run has several
    partitions. The launchpad takes what `SlurmRunConfig` has.
    """

    execution: ScriptExecution = Field(description="The payload, and the step that runs it.")
    run: Annotated[
        Mapping[str, Any],
        Resolver(
            arguments_of,
            model_field_type=RunModel,
            description="Arguments of `ComputeResource.run` and `run_partitions`.",
        ),
    ] = Field(default={})
    assets: Annotated[list[ResolvedAssetSpec], Resolver.default(description="What it materialises.")] = Field(
        default=[]
    )
    checks: Annotated[
        list[ResolvedAssetCheckSpec], Resolver.default(description="Which asset checks the payload reports.")
    ] = Field(default=[])
    resource_key: Annotated[str, Resolver.default(description="The key of the `ComputeResource`.")] = "compute"

    def build_defs(self, context: ComponentLoadContext) -> Definitions:
        """The assets or asset checks, as definitions.

        Raises:
            ConfigurationError: There are neither assets nor checks.
        """
        payload = payload_at(self.execution.path, context.path)
        arguments = with_paths(self.run, context.path)
        if self.assets:
            return Definitions(assets=[self._assets(payload, arguments)])
        if self.checks:
            return Definitions(asset_checks=[self._checks(payload, arguments)])
        raise ConfigurationError(
            f"The component in {context.path} names neither assets nor checks",
            hint="Give it `assets`, such as `[{key: model}]`, or `checks`.",
        )

    def _assets(self, payload: str, arguments: Mapping[str, Any]) -> AssetsDefinition:
        @multi_asset(
            **self._of_both(self.assets[0].key.to_python_identifier()),
            specs=list(map(of_our_kind, self.assets)),
            check_specs=self.checks,
            backfill_policy=self.execution.backfill_policy,
        )
        def script(context: AssetExecutionContext, config: SlurmRunConfig) -> Iterator[Any]:
            yield from self._results(context, payload, {**arguments, "config": config})

        return script

    def _checks(self, payload: str, arguments: Mapping[str, Any]) -> AssetChecksDefinition:
        @multi_asset_check(**self._of_both(self.checks[0].get_python_identifier()), specs=self.checks)
        def script(context: AssetCheckExecutionContext, config: SlurmRunConfig) -> Iterator[Any]:
            yield from self._results(context, payload, {**arguments, "config": config})

        return script

    def _of_both(self, default_name: str) -> dict[str, Any]:
        execution = self.execution
        return {
            "name": execution.name or default_name,
            "description": execution.description,
            "op_tags": execution.tags,
            "pool": execution.pool,
            "retry_policy": execution.retry_policy,
            "required_resource_keys": {self.resource_key},
        }

    def _results(
        self, context: AssetExecutionContext | AssetCheckExecutionContext, payload: str, arguments: dict[str, Any]
    ) -> Iterator[Any]:
        compute: ComputeResource = getattr(context.resources, self.resource_key)
        max_parallel = arguments.pop("max_parallel", None)
        is_range = isinstance(context, AssetExecutionContext) and context.has_partition_key_range
        if is_range and len(context.partition_keys) > 1:
            yield from compute.run_partitions(context, payload, max_parallel, **arguments).get_results()
        else:
            yield from self._with_values(compute.run(context, payload, **arguments))

    def _with_values(self, done: SlurmCompletedInvocation) -> Iterator[Any]:
        """What stays on the cluster is the value of an asset that names its IO manager; of any other Dagster has none.

        `run_partitions` has stored it when a partition has ended.
        """
        named = {spec.key for spec in self.assets if _IO_MANAGER in spec.metadata} if done.kept else set()
        for each in done.get_results():
            if isinstance(each, MaterializeResult) and each.asset_key in named:
                yield with_value(each, value_of(done.kept))
            else:
                yield each


def of_our_kind(spec: AssetSpec) -> AssetSpec:
    """An asset with our kind besides its own, where it may have one more."""
    return spec.merge_attributes(kinds={KIND}) if len({KIND} | spec.kinds) <= _MOST_KINDS else spec
