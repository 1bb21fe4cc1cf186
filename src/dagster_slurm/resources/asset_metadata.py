"""What an asset says in its metadata about how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import MetadataValue

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.pipes.step import Step

SLURM_OPTIONS = "slurm"
PRE_DEPLOYED_ENV_PATH = "slurm_pre_deployed_env_path"
ENVIRONMENT = "slurm_environment"
ENVIRONMENT_NAME = "slurm_environment_name"
PACK_CMD = "slurm_pack_cmd"
FORCE_ENV_PUSH = "force_slurm_env_push"
EXTRA_FILES = "slurm_extra_files"
SKIP_PAYLOAD_UPLOAD = "skip_slurm_payload_upload"
PAYLOAD_PATH = "slurm_payload_path"
INPUTS = "slurm_inputs"
OUTPUTS = "slurm_outputs"
OUTPUTS_DIR = "slurm_outputs_dir"
KEEP_ON_CLUSTER = "slurm_keep_on_cluster"
SCRATCH = "slurm_scratch"


def selected_metadata(step: Step | None, name: str) -> Any:
    """The value of `name` in the metadata of the step's assets; None without one, and outside of a step.

    Raises:
        InvalidRequestError: The assets of one step say different things.
    """
    if step is None:
        return None
    values = [_plain(step.asset_metadata[key][name]) for key in step.asset_keys if name in step.asset_metadata[key]]
    if any(value != values[0] for value in values):
        raise InvalidRequestError(
            f"The assets of one step differ in their metadata {name!r}: {values}",
            hint="They share one job; give it the same value on each, or on one of them alone.",
        )
    return values[0] if values else None


def slurm_options(step: Step | None) -> Mapping[str, object]:
    """The Slurm options in the metadata of the step's assets.

    Raises:
        InvalidRequestError: They are not a mapping.
    """
    options = selected_metadata(step, SLURM_OPTIONS)
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidRequestError(
            f"The asset metadata {SLURM_OPTIONS!r} is {options!r}",
            hint='It has to be a mapping of options, such as {"partition": "gpu", "gres": "gpu:2"}.',
        )
    return options


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, MetadataValue) else value
