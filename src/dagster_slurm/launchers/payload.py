"""The payload and the files that travel with it."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from dagster_slurm.errors import InvalidRequestError, PayloadNotFoundError
from dagster_slurm.text import as_written
from dagster_slurm.transport import TreeEntry

PathLike = str | os.PathLike[str]
ExtraFiles = Mapping[str, PathLike] | Sequence[PathLike]

# Emacs marks what it edits by links to nothing.
_OF_EDITORS = ".#"
_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_MODULE = re.compile(rf"-m\s+({_NAME})", re.ASCII)
_FUNCTION = re.compile(rf"{_NAME}:{_NAME}", re.ASCII)


@dataclass(frozen=True)
class Payload:
    """What is run.

    Args:
        program: Its path as seen by the job, relative to the working directory or absolute, until a cluster is known
            with `~` and variables of its login; or, as `form` says, `package.module` or `package.module:function`.
        interpreter: `python` for the environment's Python, `bash`, or None for a file that runs by itself.
        source: The file or directory on this machine that becomes `program`; None if there is nothing to upload.
        form: Whether `program` is a path, or what Python finds by its name: a module or package to run, or a
            function to call.
    """

    program: str
    interpreter: str | None
    source: Path | None
    form: Literal["path", "module", "function"] = "path"

    @property
    def has_path_there(self) -> bool:
        """Whether it is a path of the cluster, of which the login may have to say where that leads."""
        return self.source is None and self.form == "path" and self.program.startswith(("/", "~", "$"))


def payload_from_path(path: PathLike, *, remote_path: str | None = None) -> Payload:
    """Find out how something is to be run.

    What is there as a file or directory is taken as one:

    - a file: `.py` by Python, `.sh` by bash, any other by its first line;
    - a directory with `__main__.py`: `python NAME`; a package, which has `__init__.py` too: `python -m NAME`.

    Otherwise a string may name what Python finds in the environment, or among the extra files:

    - `-m package.module`: as Python does it;
    - `package.module:function`: the function is called without arguments. What it returns is ignored: a payload
      reports with messages. The exit code is 0 unless it raises, `SystemExit` included. It has to be a plain
      function; a coroutine would never be awaited.

    Args:
        path: The file or directory on this machine, or one of the names above.
        remote_path: Where it lies on the cluster already; its name tells its kind, `path` is not looked at, and
            nothing is uploaded.

    Raises:
        PayloadNotFoundError: There is no such file, no `__main__.py` in the directory, and it is none of the names.
        InvalidRequestError: It is neither Python nor shell, and cannot be run by itself.
    """
    if remote_path is not None:
        if not remote_path.strip():
            raise InvalidRequestError("remote_payload_path is empty", hint="It is a path on the cluster.")
        # What is relative is so to the home directory; a program of that name is in the working directory.
        program = remote_path if remote_path.startswith(("/", "~", "$")) else f"~/{remote_path.removeprefix('./')}"
        return Payload(program, _interpreter_by_name(PurePosixPath(remote_path).suffix), None)
    source = Path(path).expanduser()
    if source.is_dir():
        return _of_directory(source)
    return found_by_python(path) or _of_file(path)


def _of_file(path: PathLike) -> Payload:
    source = existing_file(
        path,
        "payload",
        or_else=" A payload is also a directory with `__main__.py`, `-m package.module` or `package.module:function`.",
    )
    interpreter = _interpreter_by_name(source.suffix)
    if interpreter is None and not _runs_by_itself(source):
        raise InvalidRequestError(
            f"The payload {source} cannot be run",
            hint="A payload is a `.py` or `.sh` file, a directory with `__main__.py`, or a program or script with a "
            "`#!` line.",
        )
    if interpreter != "python" and _first_line(source).endswith(b"\r\n"):
        raise InvalidRequestError(
            f"The payload {source} has lines that end as on Windows, which no shell on the cluster reads",
            hint="`sed -i 's/\\r$//'` mends it, and `*.sh text eol=lf` in .gitattributes keeps it so.",
        )
    return Payload(source.name, interpreter, source)


def _first_line(source: Path) -> bytes:
    with source.open("rb") as file:
        return file.readline(4096)


def _of_directory(source: Path) -> Payload:
    if not (source / "__main__.py").is_file():
        raise PayloadNotFoundError(
            f"The payload {source.absolute()} is a directory without `__main__.py`",
            hint="Python runs the `__main__.py` of a directory; or name one of its files.",
        )
    # `.` and `..` have no name of their own.
    name = source.name if source.name not in {"", ".."} else source.resolve().name
    if not (source / "__init__.py").is_file():
        return Payload(name, "python", source)
    if "." in name:
        raise InvalidRequestError(
            f"The package {source.absolute()} cannot be run: for `python -m`, a dot stands before a module",
            hint="Give the directory a name without a dot.",
        )
    return Payload(name, "python", source, "module")


def found_by_python(path: PathLike) -> Payload | None:
    """What a string names that Python itself looks for, if no file has that name; None if it has neither form."""
    if not isinstance(path, str) or Path(path).expanduser().exists():
        return None
    text = path
    if any(map(keyword.iskeyword, re.split(r"\W", text))):
        return None
    if module := _MODULE.fullmatch(text):
        return Payload(module[1], "python", None, "module")
    return Payload(text, "python", None, "function") if _FUNCTION.fullmatch(text) else None


def as_payload(payload: Payload | PathLike) -> Payload:
    """The payload itself, or the one that `payload_from_path` makes of it.

    Raises:
        PayloadNotFoundError: There is no such file, and it is no name of a module or function either.
        InvalidRequestError: It cannot be run.
    """
    return payload if isinstance(payload, Payload) else payload_from_path(payload)


def work_files(payload: Payload, extra_files: ExtraFiles | None) -> list[TreeEntry]:
    """The content of the working directory: the payload and the extra files, which lie beside it.

    A payload's byte code stays here: it belongs to another interpreter, and tells nothing of what it does.

    Args:
        payload: The payload.
        extra_files: Files or directories, put under their own names; or a mapping from the name in the
            working directory to the file on this machine.

    Raises:
        PayloadNotFoundError: One of them does not exist.
        InvalidRequestError: Two of them would have the same name, or one would lie outside the working directory.
    """
    entries = list(_payload_entries(payload))
    if isinstance(extra_files, (str, os.PathLike)):
        raise InvalidRequestError(
            f"extra_files is a list of files or a mapping, not one path, {as_written(extra_files)}",
            hint="Put it into a list.",
        )
    named = (
        extra_files.items()
        if isinstance(extra_files, Mapping)
        else ((Path(path).name, path) for path in extra_files or ())
    )
    for name, path in named:
        entries += _entries(name, path)
    check_names([entry.name for entry in entries])
    return entries


def _payload_entries(payload: Payload) -> Iterator[TreeEntry]:
    if payload.source is None:
        return
    if not payload.source.is_dir():
        yield TreeEntry(payload.program, payload.source, 0o700)
        return
    for entry in _entries(payload.program, payload.source):
        if not entry.name.endswith(".pyc") and "__pycache__" not in entry.name.split("/"):
            yield entry


def _entries(name: str, path: PathLike) -> Iterator[TreeEntry]:
    source = Path(path).expanduser()
    if source.is_dir():
        for file in files_below(source):
            yield TreeEntry(f"{name}/{file.relative_to(source).as_posix()}", file, _mode(file))
        return
    source = existing_file(path, "extra file")
    yield TreeEntry(name, source, _mode(source))


def files_below(directory: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Its files in order, through links to directories too, but not to one that it lies in.

    Raises:
        InvalidRequestError: In it is something that has no content to be sent.
    """
    above |= {directory.resolve()}
    for path in sorted(directory.iterdir()):
        if path.is_file():
            yield path
        elif not path.is_dir() and not path.name.startswith(_OF_EDITORS):
            raise InvalidRequestError(
                f"{path} is {'a link to nothing' if path.is_symlink() else 'no file'}, and cannot be sent",
                hint="Remove it, or name the files that are to be sent.",
            )
        elif path.is_dir() and path.resolve() not in above:
            yield from files_below(path, above)


def check_names(names: Sequence[str]) -> None:
    """Refuse names in the working directory that clash, or are none.

    Raises:
        InvalidRequestError: Two files would have the same name, or one would lie outside the working directory.
    """
    seen: set[str] = set()
    directories = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    for name in names:
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise InvalidRequestError(
                f"{name!r} is not a name in the working directory",
                hint="Give them as a mapping from name to file; names are relative, without `.` and `..`.",
            )
        if name in seen or name in directories:
            raise InvalidRequestError(
                f"Two files would be {name!r} in the working directory",
                hint="Give extra_files, or inputs, as a mapping from name to file.",
            )
        seen.add(name)


def existing_file(path: PathLike, what: str, or_else: str = "") -> Path:
    """A path as that of a file of this machine.

    Raises:
        PayloadNotFoundError: It is none; `what` names it.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise PayloadNotFoundError(
            f"The {what} {source.absolute()} is not a file of this machine",
            hint=f"Paths are relative to the working directory of Dagster; build them from `__file__`.{or_else}",
        )
    return source


def _mode(file: Path) -> int:
    return 0o700 if os.access(file, os.X_OK) else 0o600


def _interpreter_by_name(suffix: str) -> str | None:
    return {".py": "python", ".sh": "bash"}.get(suffix)


def _runs_by_itself(source: Path) -> bool:
    with source.open("rb") as file:
        head = file.read(4)
    return head.startswith((b"#!", b"\x7fELF"))
