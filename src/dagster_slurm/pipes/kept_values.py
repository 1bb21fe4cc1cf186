"""What stays on the cluster as the value of an asset, stored at the moment that a partition or component ends.

Dagster hands a step's output to the IO manager when the step returns: of a step that fails, nothing (1.13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from dagster import AssetKey, OutputContext

from dagster_slurm.pipes.dagster_private import PartitionEvents

Store = Callable[[str | None, object], Mapping[str, Any]]
"""Stores the value of a partition, or of an asset without any; what its materialisation says of that."""


@runtime_checkable
class StoresWhileRunning(Protocol):
    """An IO manager that does not wait for the end of the step."""

    def store_of(self, context: OutputContext) -> Store:
        """What stores the values of one output."""
        ...


class KeptValues:
    """Gives what is kept to the IO managers of a step, where they take it while the step goes on.

    Args:
        events: Knows the outputs of the step.
    """

    def __init__(self, events: PartitionEvents) -> None:
        self._events = events
        self._stores: dict[AssetKey, Store | None] = {}

    def store(self, asset_key: AssetKey, partition: str | None, value: object) -> Mapping[str, Any]:
        """Store a value, where it is taken; what its materialisation says of that.

        Args:
            asset_key: Of which asset.
            partition: Of which partition; None for an asset without any.
            value: A `RemotePath`, or a mapping of them; an empty one is not stored.

        Raises:
            LocalStorageError: It cannot be written on this machine.
        """
        store = self._store_of(asset_key) if value else None
        return store(partition, value) if store else {}

    def are_taken(self, asset_key: AssetKey) -> bool:
        """Whether the IO manager of an asset takes values while the step goes on."""
        return self._store_of(asset_key) is not None

    def _store_of(self, asset_key: AssetKey) -> Store | None:
        if asset_key not in self._stores:
            found = self._events.output_of(asset_key)
            self._stores[asset_key] = None
            if found and isinstance(found[0], StoresWhileRunning):
                self._stores[asset_key] = found[0].store_of(found[1])
        return self._stores[asset_key]
