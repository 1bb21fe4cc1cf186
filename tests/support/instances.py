"""Dagster's storage, empty and on disk, without the time that making its schemas takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import yaml

# Telemetry writes into the home of who runs the tests.
QUIET = {"telemetry": {"enabled": False}}


@cache
def _empty_storage() -> Mapping[Path, bytes]:
    """The files of a storage in which nothing is: schemas and their versions, made by Dagster once for this process."""
    with TemporaryDirectory() as name:
        with dg.DagsterInstance.local_temp(name):
            pass
        root = Path(name)
        return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def lay_out_storage(directory: Path, storage: Mapping[str, object] | None = None) -> None:
    """Put an empty storage where Dagster would make one: 0.02 s in place of 0.2 s.

    Args:
        directory: A DAGSTER_HOME.
        storage: What `dagster.yaml` says of it, if not nothing.
    """
    if storage:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "dagster.yaml").write_text(yaml.safe_dump({**QUIET, **storage}))
        return
    for name, content in _empty_storage().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def empty_instance(
    directory: Path | None = None, storage: Mapping[str, object] | None = None
) -> Iterator[dg.DagsterInstance]:
    """An instance as `DagsterInstance.local_temp` makes it, without telemetry, closed at the end of the block.

    Args:
        directory: Where it keeps everything, and leaves it; None for one that is removed at the end.
        storage: Where its records are, if not there.
    """
    if directory is None:
        # A run that was interrupted may leave threads that still write a last event.
        with TemporaryDirectory(ignore_cleanup_errors=True) as name, empty_instance(Path(name), storage) as instance:
            yield instance
        return
    lay_out_storage(directory, storage)
    with dg.DagsterInstance.local_temp(str(directory), overrides={**QUIET, **(storage or {})}) as instance:
        yield instance
