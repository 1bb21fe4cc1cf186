"""Results that stay on the cluster: Dagster keeps where they are, and the next job reads them there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import (
    ConfigurableIOManager,
    InitResourceContext,
    InputContext,
    MetadataValue,
    OutputContext,
    UPathIOManager,
)
from pydantic import Field, PrivateAttr
from upath import UPath

from dagster_slurm.errors import ConfigurationError, InvalidRequestError
from dagster_slurm.staging import RemotePath

_DIRECTORY = "slurm_paths"


class SlurmPathIOManager(ConfigurableIOManager):
    """Stores a `RemotePath`, or a mapping of them, by asset and partition, and gives it back; the data stays there.

    An asset returns `compute.run(..., keep_on_cluster=[...]).get_kept_result()`; one downstream gives its value to
    `compute.run(..., inputs={...})`.
    """

    base_dir: str | None = Field(
        default=None, description="Directory of this machine for the records; by default below Dagster's storage."
    )

    _records: UPathIOManager | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: InitResourceContext) -> None:
        """Find out where the records lie.

        Raises:
            ConfigurationError: Nowhere.
        """
        storage = self.base_dir or (context.instance.storage_directory() if context.instance else None)
        if storage is None:
            raise ConfigurationError(
                "There is no Dagster instance with a storage", hint="Give SlurmPathIOManager base_dir."
            )
        self._records = _Records(UPath(Path(storage).expanduser().absolute()) / _DIRECTORY)

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Store where something is.

        Raises:
            InvalidRequestError: It is no `RemotePath`.
        """
        self._manager().handle_output(context, obj)

    def load_input(self, context: InputContext) -> Any:
        """Where something is; for several partitions, a mapping from their keys.

        Raises:
            FileNotFoundError: It was not materialised.
        """
        return self._manager().load_input(context)

    def _manager(self) -> UPathIOManager:
        if self._records is None:
            raise ConfigurationError("SlurmPathIOManager was not set up", hint="Give it to Definitions as a resource.")
        return self._records


class _Records(UPathIOManager):
    """Dagster's way to name files by asset and partition, with a line of JSON in each."""

    extension = ".json"

    def dump_to_path(self, context: OutputContext, obj: Any, path: UPath) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_text(json.dumps(_as_json(obj)), encoding="utf-8")
        part.rename(path)

    def load_from_path(self, context: InputContext, path: UPath) -> Any:
        return _from_json(json.loads(path.read_text(encoding="utf-8")))

    def get_metadata(self, context: OutputContext, obj: Any) -> dict[str, MetadataValue]:
        if isinstance(obj, RemotePath):
            return {"slurm_host": MetadataValue.text(obj.host or ""), "slurm_path": MetadataValue.text(obj.path)}
        return {"slurm_paths": MetadataValue.json({name: _as_json(path) for name, path in obj.items()})}


def _as_json(value: object) -> dict[str, Any]:
    if isinstance(value, RemotePath):
        return {"path": value.path, "host": value.host}
    if isinstance(value, Mapping) and value and all(isinstance(each, RemotePath) for each in value.values()):
        return {"paths": {str(name): _as_json(each) for name, each in value.items()}}
    raise InvalidRequestError(
        f"SlurmPathIOManager stores a RemotePath or a mapping of them, and the asset's value is {type(value).__name__}",
        hint='Return compute.run(..., keep_on_cluster=["name"]).get_kept_result().',
    )


def _from_json(record: Mapping[str, Any]) -> RemotePath | dict[str, RemotePath]:
    if "paths" in record:
        return {name: RemotePath(each["path"], each["host"]) for name, each in record["paths"].items()}
    return RemotePath(record["path"], record["host"])
