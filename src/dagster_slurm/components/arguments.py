"""The arguments of `ComputeResource.run` and `run_partitions`, as they are written in YAML."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from dagster import Model, ResolutionContext
from pydantic import BaseModel, Field, create_model

from dagster_slurm.components.written import made, values_in, written
from dagster_slurm.errors import ConfigurationError
from dagster_slurm.launchers.payload import found_by_python
from dagster_slurm.resources.call import refuse_times_that_are_numbers
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.settings import Arguments, SlurmRetryPolicy
from dagster_slurm.staging import RemotePath

_PATHS = list[str] | dict[str, str]


class RemoteModel(Model):
    """What lies on the cluster."""

    remote: str = Field(description="Its path there, as that of a `RemotePath`.")


# Those whose type in Python YAML has no form for.
_WRITTEN: Mapping[str, Any] = {
    "extra_files": _PATHS,
    "inputs": list[str] | dict[str, str | RemoteModel],
    "keep_on_cluster": list[str],
    "metrics_collector": str,
    "outputs": _PATHS,
    "outputs_dir": str,
    "slurm_metrics": list[str],
}
_OF_FILES = ("extra_files", "inputs")
_MADE: Mapping[str, Any] = {"launcher": ComputeLauncher, "retry_policy": SlurmRetryPolicy}


def _said_of_arguments() -> dict[str, str]:
    """What the docstring of `Arguments` says of each."""
    text = inspect.cleandoc(Arguments.__doc__ or "").partition("Attributes:")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", text, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", said) for name, said in found}


def _run_model() -> type[BaseModel]:
    said = _said_of_arguments()
    said["launcher"] = "How the payload is started; what one of the resource's type leaves open, the resource says."
    said["max_parallel"] = (
        "Of a run of several partitions, how many run at once; by default as many as the cluster takes."
    )
    hints = {
        **get_type_hints(Arguments, localns={"RemotePath": RemotePath}),
        "launcher": ComputeLauncher,
        "max_parallel": int,
        **_WRITTEN,
    }
    # What is chosen in the launchpad comes from there.
    del hints["config"]
    fields: dict[str, Any] = {
        name: (written(hint) | None, Field(default=None, description=said[name])) for name, hint in hints.items()
    }
    doc = "Arguments of `ComputeResource.run`, and of `run_partitions` for a run of several partitions."
    return create_model("RunModel", __base__=Model, __doc__=doc, **fields)


RunModel = _run_model()
"""The schema of the arguments."""


def arguments_of(context: ResolutionContext, model: Any) -> Mapping[str, Any]:
    """The arguments; paths are as they were written.

    Raises:
        pydantic.ValidationError: A launcher or a retry policy does not take its fields.
        ConfigurationError: There is no such metrics collector.
        InvalidQuantityError: A time stands without quotes.
    """
    values = dict(values_in(context, model))
    refuse_times_that_are_numbers(values.get("extra_slurm_opts") or {}, "in the component's file")
    for name, hint in _MADE.items():
        if name in values:
            values[name] = made(hint, values[name])
    if isinstance(collector := values.get("metrics_collector"), str):
        values["metrics_collector"] = _function(collector)
    return values


def _function(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"The metrics_collector {name!r} cannot be imported: {error}", hint="Write it as `package.module.function`."
        ) from error


def with_paths(arguments: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The arguments, with the paths of this machine made absolute.

    Args:
        arguments: As `arguments_of` returns them, or as they are written in Python.
        directory: Where relative paths begin: that of the component's file.
    """
    return {name: _at(value, directory) if name in _OF_FILES else value for name, value in arguments.items()}


def _at(value: Any, directory: Path) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"remote"}:
            return RemotePath(value["remote"])
        return {name: _at(each, directory) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_at(each, directory) for each in value]
    return str(directory / Path(value).expanduser()) if isinstance(value, str) else value


def payload_at(path: str, directory: Path) -> str:
    """The payload: a file or directory beside the component's file, or what Python finds by its name.

    Args:
        path: As it was written.
        directory: That of the component's file.
    """
    beside = directory / Path(path).expanduser()
    return path if not beside.exists() and found_by_python(path) else str(beside)
