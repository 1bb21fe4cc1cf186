"""Results that stay on the cluster: Dagster keeps where they are, and the next job reads them there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

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

from dagster_slurm.errors import ConfigurationError, InvalidRequestError, LocalStorageError
from dagster_slurm.pipes.dagster_private import is_already_materialized
from dagster_slurm.staging import RemotePath

if TYPE_CHECKING:
    from dagster_slurm.pipes.kept_values import Store

_DIRECTORY = "slurm_paths"


class SlurmPathIOManager(ConfigurableIOManager):
    """Stores a `RemotePath`, or a mapping of them, by asset and partition, and gives it back; the data stays there.

    An asset returns `compute.run(..., keep_on_cluster=[...]).get_kept_result()`; one downstream gives its value to
    `compute.run(..., inputs={...})`. What `compute.run_partitions` and `compute.run_hetjob` keep is stored for each
    partition or asset at the moment it ends, also where others fail.
    """

    base_dir: str | None = Field(
        default=None, description="Directory of this machine for the records; by default below Dagster's storage."
    )

    _records: _Records | None = PrivateAttr(default=None)

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
        """Store where something is; for several partitions, a mapping from their keys.

        Raises:
            InvalidRequestError: It is no `RemotePath`, and no mapping of them.
        """
        self._manager().handle_output(context, obj)

    def store_of(self, context: OutputContext) -> Store:
        """What stores the value of each partition at its end, while the step goes on."""
        return self._manager().store_of(context)

    def load_input(self, context: InputContext) -> Any:
        """Where something is; for several partitions, a mapping from their keys.

        Raises:
            FileNotFoundError: It was not materialised.
        """
        return self._manager().load_input(context)

    def _manager(self) -> _Records:
        if self._records is None:
            raise ConfigurationError("SlurmPathIOManager was not set up", hint="Give it to Definitions as a resource.")
        return self._records


class _Records(UPathIOManager):
    """Dagster's way to name files by asset and partition, with a line of JSON in each."""

    extension = ".json"

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """As Dagster's own, which takes the value of one partition alone (1.13)."""
        keys = context.asset_partition_keys if context.has_asset_partitions else ()
        values = _by_partition(obj, keys) if len(keys) > 1 else {None: obj}
        for value in values.values():
            _as_json(value)
        if is_already_materialized(context):
            # Each was stored when it ended; a newer run may have stored another one since.
            return
        if len(keys) <= 1:
            super().handle_output(context, obj)
            return
        if absent := [key for key in keys if key not in values]:
            context.log.warning(f"No value was stored of {len(absent)} of {len(keys)} partitions, such as {absent[0]}")
        store = self.store_of(context)
        for key, value in values.items():
            store(key, value)

    def store_of(self, context: OutputContext) -> Store:
        """As `SlurmPathIOManager.store_of`."""
        paths: Mapping[Any, UPath] = (
            self._get_paths_for_partitions(context) if context.has_asset_partitions else {None: self._get_path(context)}
        )

        def store(partition: str | None, value: object) -> Mapping[str, Any]:
            path = paths[partition]
            try:
                self.make_directory(path.parent)
                self.dump_to_path(context, value, path)
            except OSError as error:
                raise LocalStorageError(
                    f"Cannot write {path} on this machine: {error.strerror or error}",
                    hint="Make space, or give SlurmPathIOManager another base_dir; then re-execute from failure.",
                ) from error
            return {"path": MetadataValue.path(str(path)), **self.get_metadata(context, value)}

        return store

    def dump_to_path(self, context: OutputContext, obj: Any, path: UPath) -> None:
        # Its own: a run of one partition and one of a range may store the same.
        part = path.with_name(f".{uuid4().hex}.part")
        part.write_text(json.dumps(_as_json(obj)), encoding="utf-8")
        part.replace(path)

    def load_from_path(self, context: InputContext, path: UPath) -> Any:
        return _from_json(json.loads(path.read_text(encoding="utf-8")))

    def get_metadata(self, context: OutputContext, obj: Any) -> dict[str, MetadataValue]:
        if isinstance(obj, RemotePath):
            return {"slurm_host": MetadataValue.text(obj.host or ""), "slurm_path": MetadataValue.text(obj.path)}
        return {"slurm_paths": MetadataValue.json({name: _as_json(path) for name, path in obj.items()})}


def _by_partition(value: object, keys: Sequence[str]) -> Mapping[str, Any]:
    if isinstance(value, Mapping) and value and set(value) <= set(keys):
        return value
    raise InvalidRequestError(
        f"The run has {len(keys)} partitions, and the asset's value is no mapping from their keys",
        hint='Return compute.run_partitions(..., keep_on_cluster=["name"]).get_kept_result(). Or, where one payload '
        "does all of them, let it leave a file or directory named as each of them, and keep these.",
    )


def _as_json(value: object) -> dict[str, Any]:
    if isinstance(value, RemotePath):
        return {"path": value.path, "host": value.host}
    if isinstance(value, Mapping) and value and all(isinstance(each, RemotePath) for each in value.values()):
        return {"paths": {str(name): _as_json(each) for name, each in value.items()}}
    raise InvalidRequestError(
        f"SlurmPathIOManager stores a RemotePath or a mapping of them, and the asset's value is {type(value).__name__}",
        hint='Return compute.run(..., keep_on_cluster=["name"]).get_kept_result(), or of compute.run_partitions.',
    )


def _from_json(record: Mapping[str, Any]) -> RemotePath | dict[str, RemotePath]:
    if "paths" in record:
        return {name: RemotePath(each["path"], each["host"]) for name, each in record["paths"].items()}
    return RemotePath(record["path"], record["host"])
