"""The settings of a plan, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dagster_slurm.resources import asset_metadata
from dagster_slurm.resources.call import CALL, DATA_KEYS, Arguments, Call
from dagster_slurm.resources.job_plan import PlannedSetting
from dagster_slurm.resources.launchers import BUILT_IN
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import JobRequest

if TYPE_CHECKING:
    from dagster_slurm.resources.compute import ComputeResource


def options_of(
    request: JobRequest, sources: Mapping[str, str], directory: RunDirectory, array: str | None
) -> tuple[PlannedSetting, ...]:
    """Every option of sbatch, with those that are set for every job.

    Args:
        request: What is asked for.
        sources: Where its options come from, as `merge_named` says.
        directory: The run directory.
        array: What `--array` is given; None for a single job.
    """
    managed = {"job-name": directory.job_name(), "open-mode": "append", "output": directory.slurm_log}
    managed |= {"array": array} if array else {}
    shown = {name: "" if value is True else str(value) for name, value in request.sbatch_options().items()}
    return tuple(
        PlannedSetting(f"--{name}", value, sources.get(name, BUILT_IN))
        for name, value in sorted({**shown, **managed}.items())
    )


def settings_of(call: Call, arguments: Arguments, resource: ComputeResource | None) -> tuple[PlannedSetting, ...]:
    """What else can be said in more than one place, as far as somebody says it.

    Args:
        call: The call.
        arguments: What it is called with.
        resource: Whose call it is; None where only what counts on this machine is wanted.
    """
    launcher = call.launcher
    made = [
        PlannedSetting("payload_path", str(arguments.payload_path), CALL),
        PlannedSetting("launcher", type(launcher.value).__name__, launcher.source),
    ]
    made += [
        PlannedSetting(f"launcher.{name}", str(getattr(launcher.value, name)), source)
        for name, source in launcher.fields.items()
    ]
    known: list[tuple[str, str | None, object]] = [("extra_files", asset_metadata.EXTRA_FILES, None)]
    known += [(name, key, None) for name, key in DATA_KEYS.items()]
    if resource is not None:
        made.append(PlannedSetting("environment", *call.environment_choice().described()))
        known += [
            ("environment_name", asset_metadata.ENVIRONMENT_NAME, resource.default_environment_name),
            ("force_env_push", asset_metadata.FORCE_ENV_PUSH, None),
            ("remote_payload_path", asset_metadata.PAYLOAD_PATH, None),
            ("skip_payload_upload", asset_metadata.SKIP_PAYLOAD_UPLOAD, resource.default_skip_payload_upload or None),
            ("retry_policy", None, resource.retry_policy),
            ("continue_exit_code", None, resource.continue_exit_code),
        ]
    for name, key, of_resource in known:
        chosen = call.chosen(name, key, resource=of_resource)
        if chosen.value is not None:
            made.append(PlannedSetting(name, str(chosen.value), chosen.source))
    return tuple(made)
