"""`dagster-slurm init`: a new project, for uv and `dg`, that runs on this machine and on the sandbox as it is."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.new_project.source import Source
from dagster_slurm.version import __version__

if TYPE_CHECKING:
    from importlib.abc import Traversable

_TEMPLATE = "template"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*[A-Za-z0-9]|[A-Za-z]")


def module_of(name: str) -> str:
    """The package that a project's name stands for.

    Raises:
        ConfigurationError: It cannot be one, or one of that name is there already.
    """
    module = name.replace("-", "_").lower()
    if not _NAME.fullmatch(name) or keyword.iskeyword(module):
        raise ConfigurationError(
            f"{name!r} is no name for a project", hint="It is made of letters, digits, `-` and `_`, as `my-project` is."
        )
    if module in sys.stdlib_module_names or importlib.util.find_spec(module) is not None:
        raise ConfigurationError(
            f"There is a package {module!r} already, which the project's would hide", hint="Choose another name."
        )
    return module


def files_of(name: str, source: Source, uv: str) -> Mapping[str, str]:
    """The files of the project, by their paths. Pure but for the template.

    Args:
        name: Its name.
        source: Where it gets this package from.
        uv: The program, for its Makefile.
    """
    words = {
        "NAME": name,
        "MODULE": name.replace("-", "_").lower(),
        "SOURCE": source.toml,
        "UV": uv,
        "VERSION": __version__,
    }
    return {_filled(path, words): _filled(text, words) for path, text in _template()}


def first_payload() -> str:
    """The text of a payload that reports the sum of some numbers."""
    return dict(_template())["src/@MODULE@/defs/numbers/payload.py"]


def _filled(text: str, words: Mapping[str, str]) -> str:
    return re.sub("@([A-Z]+)@", lambda found: words[found[1]], text)


def _template() -> Iterator[tuple[str, str]]:
    yield from _below(resources.files(__name__) / _TEMPLATE, "")


def _below(directory: Traversable, path: str) -> Iterator[tuple[str, str]]:
    for each in sorted(directory.iterdir(), key=lambda each: each.name):
        if each.is_dir():
            yield from _below(each, f"{path}{each.name}/")
        else:
            # Such a file is none of ours to tools that read Python or TOML.
            yield f"{path}{each.name.removesuffix('.in')}", each.read_text(encoding="utf-8")


def write_project(directory: Path, source: Source) -> Path:
    """Write a new project.

    Args:
        directory: Where; its last part is the project's name.
        source: Where it gets this package from.

    Returns:
        The directory.

    Raises:
        ConfigurationError: There is something already, or the name cannot be one.
    """
    module_of(directory.name)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigurationError(
            f"There is something in {directory} already", hint="Choose another name, or remove it."
        )
    for path, text in files_of(directory.name, source, _uv()).items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return directory


def _uv() -> str:
    """As a shell finds it; the one beside this Python where it finds none."""
    beside = Path(sys.executable).with_name("uv")
    return "uv" if shutil.which("uv") or not beside.exists() else str(beside)
