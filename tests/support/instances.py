"""Dagster's storage, empty and on disk, without the time that making its schemas takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg


@cache
def _empty_storage() -> Mapping[Path, bytes]:
    """The files of a storage in which nothing is: schemas and their versions, made by Dagster once for this process."""
    with TemporaryDirectory() as name:
        with dg.DagsterInstance.local_temp(name):
            pass
        root = Path(name)
        return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def lay_out_storage(directory: Path) -> None:
    """Put an empty storage where Dagster would make one: 0.02 s in place of 0.2 s."""
    for name, content in _empty_storage().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def empty_instance(directory: Path | None = None) -> Iterator[dg.DagsterInstance]:
    """An instance as `DagsterInstance.local_temp` makes it, without telemetry, closed at the end of the block.

    Args:
        directory: Where it keeps everything, and leaves it; None for one that is removed at the end.
    """
    if directory is None:
        # A run that was interrupted may leave threads that still write a last event.
        with TemporaryDirectory(ignore_cleanup_errors=True) as name, empty_instance(Path(name)) as instance:
            yield instance
        return
    lay_out_storage(directory)
    # Telemetry writes into the home of who runs the tests.
    quiet = {"telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(directory), overrides=quiet) as instance:
        yield instance
