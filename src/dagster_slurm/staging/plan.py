"""What goes into the working directory, and what is taken out of it: names, decided on this machine."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.launchers.hooks import Scratch
from dagster_slurm.launchers.payload import PathLike, check_names, existing_file, files_below
from dagster_slurm.staging.patterns import checked_output, fixed_part, has_wildcard
from dagster_slurm.text import as_written


@dataclass(frozen=True)
class RemotePath:
    """A file or directory on the cluster (in mode `local`: on this machine), which a job reads in place.

    Args:
        path: Its path there: `/shared/x`, `~/x`, `$SCRATCH/x`, or `x`, which is in the home directory.
        host: Which cluster, as the resource names its login node (`me@login.cluster`); None for wherever the job runs.

    Raises:
        InvalidRequestError: The path is empty, or holds what no path there may hold.
    """

    path: str
    host: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no path."""
        if not self.path.strip() or not {"\n", "\0"}.isdisjoint(self.path):
            raise InvalidRequestError(
                f"RemotePath {self.path!r} is not a path", hint="It is one line: `/shared/x`, `~/x`, `$SCRATCH/x`."
            )

    def on(self, host: str) -> str:
        """The path, for a job that runs there.

        Raises:
            InvalidRequestError: It is a path of another host.
        """
        if self.host is not None and self.host != host:
            raise InvalidRequestError(
                f"{self.path} lies on {self.host}, and the job runs on {host}",
                hint="Materialise it on this cluster as well; or, if both see the same file system, give the path as "
                f"RemotePath({self.path!r}).",
            )
        return self.path

    def __truediv__(self, name: str) -> RemotePath:
        """What lies below it."""
        return RemotePath(f"{self.path.rstrip('/')}/{name}", self.host)


InputsOption = Mapping[str, "PathLike | RemotePath"] | Sequence[PathLike]
OutputsOption = Mapping[str, PathLike] | Sequence[str]

_UNFIT = re.compile(r"[\n\0\\]")


@dataclass(frozen=True)
class DataOptions:
    """What one call says about data, as it says it.

    Args:
        inputs: Paths, globs and directories of this machine; or a mapping from the name in the working directory to
            one of those, or to a `RemotePath`.
        outputs: Globs in the working directory; or a mapping from a glob to a directory of this machine.
        outputs_dir: Where on this machine the outputs of a list go; by default below Dagster's storage.
        keep_on_cluster: Globs of what stays where the job ran.
        scratch: Whether, or below which directory of the node, the payload works node-locally.
    """

    inputs: InputsOption | None = None
    outputs: OutputsOption | None = None
    outputs_dir: PathLike | None = None
    keep_on_cluster: Sequence[str] | None = None
    scratch: bool | str | None = None


@dataclass(frozen=True)
class Inputs:
    """What a payload reads, by the names in its working directory.

    Args:
        files: Files of this machine.
        remote: What is where the job runs already.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    remote: Mapping[str, RemotePath] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return (*self.files, *self.remote)

    def version(self) -> str:
        """What is another one when an input is: names, sizes and times, nothing that has to be read; empty for none."""
        if not self.names:
            return ""
        lines = [f"{name} {path}" for name, path in sorted(self.remote.items())]
        for name, path in sorted(self.files.items()):
            status = path.stat()
            lines.append(f"{name} {status.st_size} {status.st_mtime_ns}")
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True)
class Outputs:
    """What a payload leaves.

    Args:
        fetched: Globs, and the directory of this machine to which what they find is fetched; None for the default.
        directory: The default; None for one below Dagster's storage.
        kept: Globs of what stays on the cluster.
    """

    fetched: Mapping[str, Path | None] = field(default_factory=dict)
    directory: Path | None = None
    kept: tuple[str, ...] = ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """All globs."""
        return tuple(dict.fromkeys((*self.fetched, *self.kept)))

    @property
    def needs_default(self) -> bool:
        """Whether something goes to the default directory."""
        return self.directory is None and None in self.fetched.values()

    def destination(self, pattern: str, name: str, default: Path) -> Path:
        """Where on this machine a file goes that a glob has found."""
        directory = self.fetched[pattern]
        if directory is None:
            return (self.directory or default) / name
        return directory / name.removeprefix(fixed_part(pattern))


@dataclass(frozen=True)
class Staging:
    """All that one call says about data.

    Args:
        inputs: What the payload reads.
        outputs: What it leaves.
        scratch: Where on the node it works; None for the run directory.
        uploaded: Names of the payload and the extra files.
    """

    inputs: Inputs = field(default_factory=Inputs)
    outputs: Outputs = field(default_factory=Outputs)
    scratch: Scratch | None = None
    uploaded: tuple[str, ...] = ()

    @property
    def put_there(self) -> frozenset[str]:
        """Names of files that lie in the working directory before the payload starts."""
        return frozenset((*self.inputs.names, *self.uploaded))


def plan_staging(options: DataOptions, *, uploaded: Sequence[str] = ()) -> Staging:
    """Decide which names there are.

    Args:
        options: What the call says.
        uploaded: Names that are taken: the payload and the extra files.

    Raises:
        InvalidRequestError: A glob finds nothing, a name is taken or outside, an option has another form.
    """
    inputs = _inputs(options.inputs)
    if inputs.names:
        check_names([*uploaded, *inputs.names])
    outputs = _outputs(options)
    scratch = Scratch.of(options.scratch, outputs.patterns) if options.scratch else None
    return Staging(inputs, outputs, scratch, tuple(uploaded))


def _inputs(inputs: InputsOption | None) -> Inputs:
    if isinstance(inputs, (str, os.PathLike, RemotePath)):
        raise InvalidRequestError(
            f"inputs is a list of paths or a mapping, not one path, {as_written(inputs)}", hint="Put it into a list."
        )
    files: dict[str, Path] = {}
    remote: dict[str, RemotePath] = {}
    named = inputs.items() if isinstance(inputs, Mapping) else ((None, path) for path in inputs or ())
    for name, path in named:
        if isinstance(path, RemotePath):
            remote[name or _own_name(path.path)] = path
            continue
        for found, file in _found(name, path):
            if files.setdefault(found, file) != file:
                raise InvalidRequestError(
                    f"Two inputs would be {found!r} in the working directory: {files[found]} and {file}",
                    hint="Give inputs as a mapping from the name in the working directory.",
                )
    return Inputs(files, remote)


def _found(name: str | None, path: PathLike) -> Iterator[tuple[str, Path]]:
    """The files that one input stands for, with their names in the working directory."""
    given = str(Path(path).expanduser())
    if has_wildcard(given) and not os.path.lexists(given):
        matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - it may be absolute
        base, prefix = fixed_part(given), f"{name.rstrip('/')}/" if name else ""
        found = [each for match in matches for each in _files_at(prefix + match[len(base) :].rstrip("/"), Path(match))]
    else:
        found = list(_files_at((name or _own_name(given)).rstrip("/"), Path(given)))
    if not found:
        raise InvalidRequestError(
            f"The input {os.fspath(path)!r} matches no file of this machine, seen from {Path.cwd()}",
            hint="Paths are relative to the working directory of Dagster; build them from `__file__`.",
        )
    for each, file in found:
        if _UNFIT.search(each):
            raise InvalidRequestError(f"The input {each!r} holds a line break, a backslash or a NUL")
        yield each, file.absolute()


def _files_at(name: str, path: Path) -> Iterator[tuple[str, Path]]:
    if not path.is_dir():
        yield name, existing_file(path, "input")
        return
    for file in files_below(path):
        yield f"{name}/{file.relative_to(path).as_posix()}".lstrip("/"), file


def _own_name(path: str) -> str:
    return Path(path).name or Path(path).resolve().name


def _outputs(options: DataOptions) -> Outputs:
    outputs = options.outputs
    for name, value in (("outputs", outputs), ("keep_on_cluster", options.keep_on_cluster)):
        if isinstance(value, (str, os.PathLike)):
            raise InvalidRequestError(
                f"{name} is a list of globs, not one, {as_written(value)}", hint="Put it into a list."
            )
    listed = outputs.items() if isinstance(outputs, Mapping) else ((pattern, None) for pattern in outputs or ())
    fetched = {checked_output(pattern): _local_directory(directory) for pattern, directory in listed}
    kept = tuple(dict.fromkeys(checked_output(pattern) for pattern in options.keep_on_cluster or ()))
    return Outputs(fetched, _local_directory(options.outputs_dir), kept)


def _local_directory(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()
