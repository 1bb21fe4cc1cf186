"""Inputs and outputs in mode `local`: the same names, without a cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.staging.collect import Collected
from dagster_slurm.staging.patterns import kept_names, missing, output_not_found, select
from dagster_slurm.staging.plan import Inputs, RemotePath, Staging
from dagster_slurm.transport.shell import absolute

HOST = "this machine"
"""As a cluster is called whose commands are run here."""


def place(inputs: Inputs, work: Path) -> None:
    """Have the inputs appear in a working directory: copies that are read only, and links to what is used in place.

    Raises:
        InvalidRequestError: A `RemotePath` is another machine's, or is not there.
    """
    for name, source in inputs.files.items():
        path = _with_parents(work / name)
        shutil.copyfile(source, path)
        path.chmod(0o400)
    for name, remote in inputs.remote.items():
        _with_parents(work / name).symlink_to(used_in_place(remote))


def used_in_place(remote: RemotePath) -> Path:
    """The path of what is used where it is.

    Raises:
        InvalidRequestError: It is another machine's, or is not there.
    """
    try:
        target = Path(absolute(remote.on(HOST), {"HOME": str(Path.home()), **os.environ}))
    except (LookupError, ValueError) as error:
        raise InvalidRequestError(f"RemotePath {remote.path!r} leads nowhere on this machine: {error}") from None
    if not target.exists():
        raise InvalidRequestError(
            f"There is no {target} on this machine",
            hint="A RemotePath names a file or directory that exists; materialise the asset that makes it anew.",
        )
    return target


def collect(staging: Staging, work: Path, *, outputs_dir: Path, result: Path, is_kept: bool) -> Collected:
    """Copy what the payload left, and publish what is to stay.

    Args:
        staging: What was asked for.
        work: The payload's working directory.
        outputs_dir: Where outputs without a directory of their own go.
        result: The directory for what stays; another of that name with a number, if there is one.
        is_kept: Whether the working directory stays after a failure.

    Raises:
        OutputNotFoundError: A glob finds nothing.
    """
    outputs = staging.outputs
    left = [path.relative_to(work).as_posix() for path in _files(work)] if outputs.patterns else []
    selected = select(outputs.patterns, left, staging.put_there)
    absent = missing(selected)
    if absent:
        kept_path = str(work) if is_kept else None
        raise output_not_found(absent, set(left) - staging.put_there, kept_path=kept_path, host=HOST)
    copied: dict[Path, None] = {}
    for pattern in outputs.fetched:
        for name in selected[pattern]:
            destination = outputs.destination(pattern, name, outputs_dir)
            _copy_whole(work / name, destination)
            copied[destination] = None
    names = kept_names(selected, outputs.kept)
    return Collected(tuple(copied), _publish(names, work, result) if names else {})


def _files(directory: Path) -> Iterator[Path]:
    """Its files, links to files as well; not through links to directories."""
    for path in directory.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _files(path)


def _copy_whole(source: Path, destination: Path) -> None:
    part = _with_parents(destination).with_name(f".dagster-slurm.{uuid4().hex[:16]}.part")
    try:
        shutil.copyfile(source, part)
        part.replace(destination)
    finally:
        part.unlink(missing_ok=True)


def _publish(names: Sequence[str], work: Path, result: Path) -> dict[str, RemotePath]:
    part = _with_parents(result).with_name(f".part.{uuid4().hex[:16]}")
    for name in names:
        source, copy = (work / name).resolve(), _with_parents(part / name)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True)
        else:
            shutil.copyfile(source, copy)
    for path in _files(part):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o7555)
    free = _free(result)
    part.rename(free)
    return {name: RemotePath(str(free / name), HOST) for name in names}


def _free(path: Path) -> Path:
    """The path, or the first of that name with a number: what was published is never replaced."""
    number, free = 0, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _with_parents(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
