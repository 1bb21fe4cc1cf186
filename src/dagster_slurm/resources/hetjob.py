"""`ComputeResource.run_hetjob`: what its arguments ask for, component by component."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from dagster import AssetKey

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.job.het_script import OnFailure
from dagster_slurm.launchers.payload import PathLike
from dagster_slurm.pipes.component_results import SlurmHetInvocation
from dagster_slurm.pipes.launch_key import Reattach
from dagster_slurm.pipes.step import Step, stop_in_dry_run
from dagster_slurm.resources.call import work_of
from dagster_slurm.resources.job_plan import JobPlan
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.settings import ComputeDefaults
from dagster_slurm.resources.slurm import SlurmQueueConfig
from dagster_slurm.slurm.hetjob import refuse_whole
from dagster_slurm.slurm.options import setting_names
from dagster_slurm.text import as_written, counted
from dagster_slurm.work.components import Component, Components
from dagster_slurm.work.het_clients import LocalHetClient, SlurmHetClient

if TYPE_CHECKING:
    AssetName = AssetKey | str | Sequence[str]
    Asked = Mapping[str, object] | SlurmQueueConfig | None
    HetAsset = tuple[AssetName, PathLike, Asked]

_MEMORY = frozenset({"mem", "mem-per-cpu", "mem-per-gpu"})
_WAYS = ("wait", "cancel")


def run_hetjob(
    resource: ComputeDefaults,
    step: Step,
    defined: Collection[AssetKey],
    assets: Sequence[HetAsset],
    launchers: Mapping[Any, ComputeLauncher] | None,
    on_failure: str,
    arguments: Mapping[str, Any],
) -> SlurmHetInvocation:
    """As `ComputeResource.run_hetjob`.

    Args:
        resource: Whose call it is.
        step: The step.
        defined: All assets of the definition, of which the step may be to make some.
        assets: As for `ComputeResource.run_hetjob`, as are the others.
        launchers: The same.
        on_failure: The same.
        arguments: What else it is called with.
    """
    stop_in_dry_run(lambda: _planned(resource, step, assets, launchers or {}, on_failure, arguments, defined))
    _refuse_way(on_failure)
    components = components_of(resource, step, assets, launchers or {}, arguments, defined)
    return _client(resource).do_components(step, components, arguments.get("name"), cast("OnFailure", on_failure))


def _planned(
    resource: ComputeDefaults,
    step: Step,
    assets: Sequence[HetAsset],
    launchers: Mapping[Any, ComputeLauncher],
    on_failure: str,
    arguments: Mapping[str, Any],
    defined: Collection[AssetKey],
) -> JobPlan:
    from dagster_slurm.resources.het_plan import het_plan  # noqa: PLC0415 - for dry runs only

    _refuse_way(on_failure)
    components = components_of(resource, step, assets, launchers, arguments, defined)
    cluster = None if resource.mode == "local" else resource.cluster().connect().cluster
    return het_plan(components, step, cluster, cast("OnFailure", on_failure), resource.max_node_hours)


def _refuse_way(on_failure: str) -> None:
    if on_failure not in _WAYS:
        raise InvalidRequestError(f"on_failure is {as_written(on_failure)}", hint='It is "wait" or "cancel".')


def _client(resource: ComputeDefaults) -> SlurmHetClient | LocalHetClient:
    if resource.mode == "local":
        return LocalHetClient(keep_directories=resource.debug_mode)
    return SlurmHetClient(
        resource.cluster().connect(),
        debug_mode=resource.debug_mode,
        cleanup_on_failure=resource.cleanup_on_failure,
        reattach=cast("Reattach", resource.reattach),
    )


def components_of(
    resource: ComputeDefaults,
    step: Step,
    assets: Sequence[HetAsset],
    launchers: Mapping[Any, ComputeLauncher],
    arguments: Mapping[str, Any],
    defined: Collection[AssetKey],
) -> Components:
    """The components of a call, by asset key; of a step that is to make some of its assets, those.

    Args:
        resource: Whose call it is.
        step: The step.
        assets: As `run_hetjob` takes them.
        launchers: The same.
        arguments: What else it is called with.
        defined: All assets of the definition.

    Raises:
        InvalidRequestError: One is not an asset of the step or stands there twice, an option is wrong, or together they
            cost more than is allowed.
        ConfigurationError: The resource is incomplete.
    """
    if not step.is_asset:
        raise InvalidRequestError(
            "run_hetjob is for assets, and this step has none", hint="Call it in the function of a @multi_asset."
        )
    starts = {_key(name): launcher for name, launcher in launchers.items()}
    named = list(_named(assets))
    keys = [key for key, _, _ in named]
    _refuse_names(defined, keys, starts)
    given = {
        key: {**arguments, "payload_path": payload, "launcher": starts.get(key), "extra_slurm_opts": options}
        for key, payload, asked in named
        for options in [_options(arguments.get("extra_slurm_opts") or {}, asked, key.to_user_string())]
    }
    found = {
        key.to_user_string(): _component(resource, step, key, given[key]) for key in keys if key in step.asset_keys
    }
    _refuse_cost(resource, found)
    return found


def _key(name: Any) -> AssetKey:
    return AssetKey.from_coercible(name)


def _named(assets: Sequence[HetAsset]) -> Iterator[tuple[AssetKey, PathLike, Asked]]:
    for each in assets:
        if not isinstance(each, (tuple, list)) or len(each) != 3:
            raise InvalidRequestError(
                f"{as_written(each)} is no component",
                hint="Give each as (asset_key, payload_path, requirements); requirements may be {}.",
            )
        yield _key(each[0]), each[1], each[2]


def _refuse_names(
    defined: Collection[AssetKey], keys: Sequence[AssetKey], launchers: Mapping[AssetKey, ComputeLauncher]
) -> None:
    if not keys:
        raise InvalidRequestError("run_hetjob has no assets", hint="Give one component for each asset of the step.")
    known = ", ".join(sorted(key.to_user_string() for key in defined))
    for key in keys:
        name = key.to_user_string()
        if keys.count(key) > 1:
            raise InvalidRequestError(f"{name!r} stands twice in assets", hint="Each asset has one component.")
        if key not in defined:
            raise InvalidRequestError(f"{name!r} is no asset of the step", hint=f"Its assets are {known}.")
    for key in launchers:
        if key not in keys:
            raise InvalidRequestError(
                f"launchers names {key.to_user_string()!r}, which is not in assets", hint="Name a component's asset."
            )


def _options(common: Mapping[str, object], asked: Asked, name: str) -> Mapping[str, object]:
    """What the call says for all, and then what it says for one."""
    own = _said(asked)
    refuse_whole(own, f"The component {name!r}")
    names, own_names = setting_names(common), setting_names(own)
    gone = {*own_names.values(), *(_MEMORY if _MEMORY.intersection(own_names.values()) else ())}
    return {**{key: value for key, value in common.items() if names[key] not in gone}, **own}


def _said(asked: Asked) -> Mapping[str, object]:
    if isinstance(asked, SlurmQueueConfig):
        said = {
            name: value for name, value in asked.options().items() if name.removeprefix("no_") in asked.model_fields_set
        }
        return {**said, **asked.extra_slurm_opts}
    if asked is not None and not isinstance(asked, Mapping):
        raise InvalidRequestError(
            f"The requirements of a component are {as_written(asked)}", hint='Give a mapping such as {"num_nodes": 2}.'
        )
    return asked or {}


def _component(resource: ComputeDefaults, step: Step, key: AssetKey, given: Mapping[str, Any]) -> Component:
    own = replace(step, asset_keys=(key,), asset_metadata={key: step.asset_metadata.get(key, {})})
    return Component(key, own, work_of(resource, own, given))


def _refuse_cost(resource: ComputeDefaults, components: Components) -> None:
    """Each alone was looked at already."""
    most = resource.max_node_hours
    if most is None or resource.mode == "local":
        return
    hours = {name: component.spec.request.node_hours or 0.0 for name, component in components.items()}
    if sum(hours.values()) > most:
        listed = ", ".join(f"{name} {each:g}" for name, each in hours.items())
        raise InvalidRequestError(
            f"The components ask for {counted(sum(hours.values()), 'node-hour', 'g')} ({listed}), "
            f"and max_node_hours is {most:g}",
            hint="Lower `num_nodes` or `time_limit`, or raise `max_node_hours` of the ComputeResource.",
        )
