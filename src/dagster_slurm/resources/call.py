"""What one call of the compute resource asks for: the call, the launchpad, the assets and the resource, merged once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dagster import ConfigurableResource, EnvVar, MetadataValue

from dagster_slurm.environments import ClusterPython, Deployed, Provider, refuse_without
from dagster_slurm.errors import ConfigurationError, InvalidQuantityError, InvalidRequestError
from dagster_slurm.job.retrying import Chain
from dagster_slurm.launchers import Requirements, payload_from_path
from dagster_slurm.launchers.payload import ExtraFiles, Payload, found_by_python
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources.environments import (
    Environment,
    PixiEnvironment,
    UvEnvironment,
    command_words,
    found_environment,
)
from dagster_slurm.resources.launchers import BashLauncher, ComputeLauncher
from dagster_slurm.resources.settings import ComputeDefaults, metadata_of
from dagster_slurm.resources.slurm import site_profile, without_built_in_memory
from dagster_slurm.slurm.request import JobRequest, merge, merge_named
from dagster_slurm.staging import DataOptions
from dagster_slurm.text import as_text, as_written
from dagster_slurm.work.spec import (
    BUILT_IN,
    CALL,
    LAUNCHER,
    LAUNCHPAD,
    METADATA,
    RESOURCE,
    SCRIPT,
    Said,
    Tasks,
    WorkSpec,
)

if TYPE_CHECKING:
    from dagster_slurm.slurm.sbatch_lines import SbatchLines

OPTIONS_KEY = "slurm"
# What YAML makes a number of, where it is not quoted: "1:30" is 90 to it.
_TIMES = frozenset({"time", "time-limit", "time-min", "begin", "deadline"})
# No script has as much in front of its first command.
_MOST_LINES_BYTES = 1 << 18
_DEFAULT_PLATFORM = "linux-64"
_NODE_OF_GPU = "slurm_gpu_utilization_max_node"
_VARIABLES = (EnvVar, type(EnvVar.int("")))
PACK_PLATFORM = "SLURM_PACK_PLATFORM"
"""The variable that fills `pack_platform` where the field is not set."""


def work_of(
    resource: ComputeDefaults, step: Step | None, arguments: Mapping[str, Any], tasks: Tasks | None = None
) -> WorkSpec:
    """What is to be run.

    Args:
        resource: Whose call it is.
        step: The step; None outside of one.
        arguments: What it is called with: the items of `Arguments`, `payload_path` and `launcher`.
        tasks: The partitions, for `run_partitions`.

    Raises:
        InvalidRequestError: An option is wrong, there is no such payload, or it costs more than is allowed.
        ConfigurationError: The resource is incomplete.
    """
    tell_of_unknown_metadata(step)
    said = settled(resource, step, arguments)
    profile = None
    if resource.mode != "local" and (name := resource.cluster().profile):
        profile = site_profile(name)
        said |= profile.settings(said, chosen_launcher)
    facts: dict[str, Any] = {
        "extras": arguments.get("extras"),
        "extra_env": arguments.get("extra_env"),
        "name": arguments.get("name"),
    }
    facts["metadata"] = metadata_of(arguments.get("slurm_metrics"), arguments.get("metrics_collector"), resource.slurm)
    facts["chain"] = Chain(said["continue_exit_code"].value, resource.max_continuations)
    if resource.mode == "local":
        payload = payload_from_path(said["payload_path"].value)
        # What a cluster would refuse is wrong here as well; nothing is asked for.
        merge_named(without_built_in_memory(option_layers(resource, step, arguments, sbatch_lines(payload))))
        requirements_of(said["launcher"].value, None)
    else:
        said["environment"] = _chosen_environment(said, resource)
        if profile is not None:
            said["environment"] = profile.environment(said["environment"])
        payload = _payload(said)
        lines = sbatch_lines(payload)
        of_gpus = option_layers(resource, step, arguments, lines)
        layers = without_built_in_memory(of_gpus)
        if resource.shares_allocation:
            of_gpus = layers = _of_step(resource, step, layers)
        # A session's allocation costs what it costs.
        most = None if resource.shares_allocation else resource.max_node_hours
        facts |= _facts_of_job(requested(said["launcher"].value, layers, of_gpus), most, said)
        if step is not None and _NODE_OF_GPU in (arguments.get("slurm_metrics") or ()) and facts["request"].nodes > 1:
            step.log.warning(
                f"{_NODE_OF_GPU} is left out: it is known of a job of one node alone. See docs/migration.md#figures"
            )
        if lines and (note := lines.note(payload.program)):
            facts["note"] = note
            if step is not None:
                step.log.warning(note)
    extra_files = said["extra_files"].value
    if resource.default_extra_files:
        extra_files = with_default_files(extra_files, resource.default_extra_files)
    return WorkSpec.of(
        payload,
        extra_files=extra_files,
        data=DataOptions(**{field.name: said[field.name].value for field in fields(DataOptions)}),
        plan=said["launcher"].value.plan,
        tasks=tasks,
        said=said,
        **facts,
    )


def with_default_files(own: ExtraFiles | None, default: Sequence[str]) -> ExtraFiles:
    """The extra files of a call, with those of every call.

    Args:
        own: The former.
        default: The latter; one of them that the call names as well, lies there once.
    """
    named = own if isinstance(own, Mapping) else {Path(path).name: path for path in own or ()}
    paths = {Path(path).expanduser().absolute() for path in named.values()}
    others = [path for path in default if Path(path).expanduser().absolute() not in paths]
    if isinstance(own, Mapping):
        clash = next((path for path in others if Path(path).name in own), None)
        if clash is not None:
            raise InvalidRequestError(
                f"{Path(clash).name!r} is the name of two files: of default_extra_files, and of this call",
                hint="Give one of them another name, with a mapping from name to file.",
            )
        return {**own, **{Path(path).name: path for path in others}}
    return [*(own or ()), *others]


def sbatch_lines(payload: Payload) -> SbatchLines | None:
    """What a payload that is a script of this machine says in `#SBATCH` lines; None if it has none.

    Raises:
        InvalidRequestError: One of them is wrong, or asks for what cannot be had.
    """
    if payload.source is None or payload.source.is_dir():
        return None
    with payload.source.open("rb") as file:
        head = file.read(_MOST_LINES_BYTES)
    if b"#SBATCH" not in head:
        return None
    from dagster_slurm.slurm.sbatch_lines import read_sbatch_lines  # noqa: PLC0415 - most payloads have none

    return read_sbatch_lines(head.decode("utf-8", "surrogateescape"), payload.program)


def _facts_of_job(
    asked: tuple[JobRequest, Mapping[str, str], Sequence[str]], max_node_hours: float | None, said: Mapping[str, Said]
) -> dict[str, Any]:
    request, option_sources, packages = asked
    if packages:
        refuse_without(said["environment"].value, packages, type(said["launcher"].value).__name__)
    policy = said["retry_policy"].value
    return {
        "request": request,
        "option_sources": option_sources,
        "environment": said["environment"].value,
        "force_env_push": bool(said["force_env_push"].value),
        "rules": policy.rules() if policy else None,
        "max_node_hours": max_node_hours,
    }


def _payload(said: Mapping[str, Said]) -> Payload:
    """The payload, from this machine or on the cluster already."""
    path, remote, skipped = (
        said[name].value for name in ("payload_path", "remote_payload_path", "skip_payload_upload")
    )
    if not (remote is not None if skipped is None else skipped) or (remote is None and found_by_python(path)):
        # A module is not uploaded anyway: Python looks for it in the environment.
        return payload_from_path(path)
    environment: Provider = said["environment"].value
    if remote is None and isinstance(environment, Deployed):
        remote = f"{environment.path}/scripts/{Path(path).name}"
    if remote is None:
        raise ConfigurationError(
            "The payload is not to be uploaded, and it is not said where it is",
            hint="Give remote_payload_path, or the asset metadata slurm_payload_path, or pre_deployed_env_path, "
            "whose directory scripts/ has it.",
        )
    return payload_from_path(path, remote_path=remote)


def _chosen_environment(said: Mapping[str, Said], defaults: ComputeDefaults) -> Said:
    """What a payload runs in, as a `Provider`, and who says so.

    Precedence: the call, the asset's metadata, the resource, a lock file of the project, then the cluster's Python.

    Args:
        said: The settings.
        defaults: How the resource has environments packed.

    Raises:
        ConfigurationError: Two are named at once, or metadata is not of its kind.
        InvalidRequestError: There is none of that name.
    """
    named = [said[name] for name in ("pre_deployed_env_path", "environment")]
    source = next((who for who in (CALL, METADATA, RESOURCE) if who in {each.source for each in named}), BUILT_IN)
    path, environment = (each.value if each.source == source else None for each in named)
    if path is not None and environment is not None:
        raise ConfigurationError(
            "Both a pre-deployed environment and another one are named", hint="Name one of them, or none."
        )
    if environment is not None and not isinstance(environment, Environment):
        raise ConfigurationError(
            f"The asset metadata 'slurm_environment' is {as_written(environment)}",
            hint="It has to be an environment, such as UvEnvironment(groups=['gpu']).",
        )
    if path is not None:
        return Said(Deployed(path), source)
    if environment is None and defaults.project_setup_cmd:
        return Said(_set_up(said["environment_name"].value, defaults), RESOURCE)
    return Said(_provider(environment, said, defaults), source)


def _set_up(name: str | None, defaults: ComputeDefaults) -> Provider:
    from dagster_slurm.environments.project_setup import DEFAULT_NAME, SetUp, SetupRecipe  # noqa: PLC0415 - a rare kind

    recipe = SetupRecipe(
        Path.cwd(),
        tuple(defaults.project_setup_cmd or ()),
        defaults.project_setup_env or {},
        tuple(defaults.project_setup_input_globs or ()),
    )
    return SetUp(recipe, name or DEFAULT_NAME)


def _provider(environment: Environment | None, said: Mapping[str, Said], defaults: ComputeDefaults) -> Provider:
    command, name = said["pack_cmd"].value, said["environment_name"].value
    environment = environment or found_environment(Path.cwd()) or (None if command is None else PixiEnvironment())
    if environment is None:
        return ClusterPython()
    adjusted = _adjusted(environment, command, defaults)
    return (adjusted if name is None else adjusted.named(name)).provider()


def _adjusted(environment: Environment, command: Any, defaults: ComputeDefaults) -> Environment:
    """With what the resource and the asset say besides; what the environment itself says comes first."""
    platform = defaults.pack_platform or os.environ.get(PACK_PLATFORM) or None
    if platform is None and not defaults.auto_detect_platform:
        platform = _DEFAULT_PLATFORM
    says: dict[str, Any] = {}
    if isinstance(environment, PixiEnvironment):
        says = {
            "platform": platform,
            "pack_on_remote": defaults.pack_on_remote or None,
            "cache_inject_globs": defaults.cache_inject_globs,
        }
    elif isinstance(environment, UvEnvironment):
        says = {"platform": platform, "build_on_remote": defaults.pack_on_remote or None}
    update = {key: value for key, value in says.items() if value is not None and not getattr(environment, key)}
    if command is not None:
        if not isinstance(environment, PixiEnvironment):
            raise ConfigurationError(
                f"The asset metadata 'slurm_pack_cmd' is for pixi, and this is {environment.title}"
            )
        update["pack_cmd"] = command_words(command, "The asset metadata 'slurm_pack_cmd'")
    return environment.model_copy(update=update) if update else environment


def first_said(says: Mapping[str, Any]) -> Said:
    """What the first says that says anything.

    Args:
        says: By who says it; None from those that say nothing.
    """
    found = (Said(value, source) for source, value in says.items() if value is not None)
    return next(found, Said(None, BUILT_IN))


def chosen_launcher(given: Mapping[str, ComputeLauncher | None]) -> Said:
    """The first that is given; what it leaves open, those behind it say, as long as they are of its type.

    Args:
        given: The launchers by their sources, the one that wins first; there has to be one.
    """
    launchers = [(source, launcher) for source, launcher in given.items() if launcher is not None]
    source, first = launchers[0]
    alike = list(takewhile(lambda each: type(each[1]) is type(first), launchers))
    fields: dict[str, Said] = {}
    for whose, launcher in reversed(alike):
        fields |= {name: Said(getattr(launcher, name), whose) for name in launcher.model_fields_set}
    whole = first if len(alike) == 1 else type(first)(**{name: said.value for name, said in fields.items()})
    return Said(_with_variables(whole), source, dict(sorted(fields.items())))


@dataclass(frozen=True)
class Setting:
    """A setting, and who besides the call, and the launchpad where that has a field of the name, can say it.

    Args:
        name: Of the argument, and of the field of the launchpad.
        metadata: The key of the assets' metadata.
        resource: The field of the resource.
        built_in: What holds if nobody says anything.
        merged: What holds, of all that is said.
        shown: What a plan shows of the value; None where it is shown otherwise.
        is_for_jobs: Whether it counts on a cluster alone.
    """

    name: str
    metadata: str | None = None
    resource: str | None = None
    built_in: Any = None
    merged: Callable[[Mapping[str, Any]], Said] = first_said
    shown: Callable[[Any], str] | None = as_text
    is_for_jobs: bool = False


def _kind(launcher: ComputeLauncher) -> str:
    return type(launcher).__name__


def _title(environment: Provider) -> str:
    return environment.title or "the cluster's own python3"


SETTINGS = (
    Setting("payload_path"),
    Setting("launcher", None, "default_launcher", BashLauncher(), chosen_launcher, _kind),
    Setting("environment", "slurm_environment", "environment", shown=_title, is_for_jobs=True),
    Setting("extra_files", "slurm_extra_files"),
    Setting("inputs", "slurm_inputs"),
    Setting("outputs", "slurm_outputs"),
    Setting("outputs_dir", "slurm_outputs_dir"),
    Setting("keep_on_cluster", "slurm_keep_on_cluster"),
    Setting("scratch", "slurm_scratch"),
    Setting("environment_name", "slurm_environment_name", "default_environment_name", is_for_jobs=True),
    Setting("force_env_push", "force_slurm_env_push", is_for_jobs=True),
    Setting("remote_payload_path", "slurm_payload_path", is_for_jobs=True),
    Setting("skip_payload_upload", "skip_slurm_payload_upload", "default_skip_payload_upload", is_for_jobs=True),
    Setting("retry_policy", None, "retry_policy", is_for_jobs=True),
    Setting("continue_exit_code", None, "continue_exit_code"),
    Setting(
        "pre_deployed_env_path", "slurm_pre_deployed_env_path", "pre_deployed_env_path", shown=None, is_for_jobs=True
    ),
    Setting("pack_cmd", "slurm_pack_cmd", shown=None, is_for_jobs=True),
)
"""Every setting that can be said in more than one place, or not by the call, in the order in which a plan shows them.

The options of sbatch are merged one by one: `extra_slurm_opts`, and `OPTIONS_KEY` in the assets' metadata."""


def settled(resource: ComputeDefaults, step: Step | None, arguments: Mapping[str, Any]) -> dict[str, Said]:
    """What holds for each setting: the first that says something wins.

    Args:
        resource: Whose call it is.
        step: The step; None outside of one.
        arguments: What it is called with.

    Raises:
        InvalidRequestError: The assets of the step say different things.
    """
    is_here = resource.mode == "local"
    return {row.name: _said(row, resource, step, arguments) for row in SETTINGS if not (is_here and row.is_for_jobs)}


def _said(row: Setting, resource: ComputeDefaults, step: Step | None, arguments: Mapping[str, Any]) -> Said:
    says = {
        CALL: arguments.get(row.name),
        LAUNCHPAD: getattr(arguments.get("config"), row.name, None),
        METADATA: metadata_of_assets(step, row.metadata) if row.metadata else None,
        # What is off there, or empty, is not said there.
        RESOURCE: (getattr(resource, row.resource) or None) if row.resource else None,
        BUILT_IN: row.built_in,
    }
    return row.merged(says)


def option_layers(
    resource: ComputeDefaults, step: Step | None, arguments: Mapping[str, Any], lines: SbatchLines | None = None
) -> dict[str, Mapping[str, Any]]:
    """The options of sbatch, by who says them; the last wins.

    Args:
        resource: Whose call it is.
        step: The step; None outside of one.
        arguments: What it is called with.
        lines: What the payload says itself; None if it says nothing.

    Raises:
        InvalidRequestError: Those in the metadata are not a mapping.
    """
    of_assets = metadata_of_assets(step, OPTIONS_KEY)
    if not isinstance(of_assets, (Mapping, type(None))):
        raise InvalidRequestError(
            f"The asset metadata {OPTIONS_KEY!r} is {as_written(of_assets)}",
            hint='It has to be a mapping of options, such as {"partition": "gpu", "gres": "gpu:2"}.',
        )
    of_launchpad = getattr(arguments.get("config"), "extra_slurm_opts", None) or {}
    refuse_times_that_are_numbers(of_launchpad, "in the launchpad")
    return {
        **resource.cluster().option_layers(),
        **({SCRIPT: lines.options} if lines else {}),
        METADATA: of_assets or {},
        LAUNCHPAD: of_launchpad,
        CALL: arguments.get("extra_slurm_opts") or {},
    }


def refuse_times_that_are_numbers(options: Mapping[str, Any], where: str) -> None:
    """Refuse what YAML has made of a time without quotes.

    Args:
        options: Options of sbatch, as YAML has read them.
        where: What is said of the place.

    Raises:
        InvalidQuantityError: One is a number.
    """
    for name, value in options.items():
        if isinstance(value, (int, float)) and name.replace("_", "-") in _TIMES:
            raise InvalidQuantityError(
                f"{name!r} is the number {value} {where}",
                hint='Write it in quotes, "1:00:00": without them YAML makes 3600 of it, which are minutes to sbatch.',
            )


def _of_step(
    resource: ComputeDefaults, step: Step | None, layers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """The layers of a step of a session, which lasts as long as its allocation unless somebody says otherwise."""
    from dagster_slurm.session import step_layers  # noqa: PLC0415 - a job of its own does without

    # Whoever speaks of a cluster's jobs, and of a session's allocation as well: all that is weaker than a payload.
    weak = [who for who in layers if who not in (SCRIPT, METADATA, LAUNCHPAD, CALL)]
    of_step, left = step_layers(layers, weak)
    for who in weak:
        # That of a job. So is the memory that is built in: a step has what goes with its CPUs.
        of_job = ("time", "time_limit", "mem") if who == BUILT_IN else ("time", "time_limit")
        of_step[who] = {key: value for key, value in of_step[who].items() if key not in of_job}
    if resource.session and resource.session.max_queue_hours:
        of_step[RESOURCE] = {**of_step[RESOURCE], "max_queue_hours": resource.session.max_queue_hours}
    if left and step is not None:
        step.log.warning(f"Not applied in a session, whose allocation it would be about: {', '.join(left)}")
    return of_step


def tell_of_unknown_metadata(step: Step | None) -> None:
    """Warn of metadata that is nearly ours: it has no effect, and nobody else would say so."""
    if step is None:
        return
    known = sorted({OPTIONS_KEY, *(row.metadata for row in SETTINGS if row.metadata)})
    for key in sorted({key for metadata in step.asset_metadata.values() for key in metadata}):
        if key not in known and (meant := nearly(key, known)):
            step.log.warning(f"The asset metadata {key!r} is not known, and has no effect: is {meant!r} meant?")


def nearly(key: str, known: Sequence[str]) -> str:
    """Which of the known names a key is but for its case, dashes, or a letter or two; empty for none. Pure."""
    plain = key.lower().replace("-", "_").strip()
    found = difflib.get_close_matches(plain, known, n=1, cutoff=0.89)
    return found[0] if found else ""


def metadata_of_assets(step: Step | None, key: str) -> Any:
    """A value in the metadata of the step's assets and asset checks; None without one, and outside of a step.

    Raises:
        InvalidRequestError: The assets of one step say different things.
    """
    if step is None:
        return None
    values = [_plain(metadata[key]) for metadata in step.asset_metadata.values() if key in metadata]
    if any(value != values[0] for value in values):
        raise InvalidRequestError(
            f"The assets of one step differ in their metadata {key!r}: {as_written(values)}",
            hint="They share one job; give it the same value on each, or on one of them alone.",
        )
    return values[0] if values else None


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, MetadataValue) else value


def requested(
    launcher: ComputeLauncher,
    layers: Mapping[str, Mapping[str, object]],
    of_gpus: Mapping[str, Mapping[str, object]] | None = None,
) -> tuple[JobRequest, Mapping[str, str], Sequence[str]]:
    """What to ask Slurm for, with what a launcher needs.

    Args:
        launcher: The launcher.
        layers: The options by their sources, the one that wins last; the first is `BUILT_IN`.
        of_gpus: The same with what is said of jobs with GPUs, in case it is the launcher that asks for them.

    Returns:
        As `merge_named`, and the packages that it needs.

    Raises:
        InvalidRequestError: An option is wrong, or the launcher refuses the request.
        ConfigurationError: An option that the launcher needs is wrong.
    """
    request, sources = merge_named(layers)
    needed = requirements_of(launcher, request)
    if not needed.options:
        return request, sources, needed.packages
    try:
        merge(needed.options)
    except InvalidRequestError as error:
        what = f"{type(launcher).__name__}.requirements: {error.message}"
        raise ConfigurationError(what, hint=error.hint) from error
    layers = of_gpus or layers
    layers = without_built_in_memory({BUILT_IN: layers[BUILT_IN], LAUNCHER: needed.options, **layers})
    return *merge_named(layers), needed.packages


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
