"""What a project that was written for dagster-slurm 1.22 has to change: a look at its files, of which none is run."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dagster_slurm.compat import refused
from dagster_slurm.compat.paths import PACKAGE, PATHS, spec_of
from dagster_slurm.errors import ConfigurationError

_PASSED_OVER = frozenset({"node_modules", "site-packages", "__pycache__", "build", "dist"})
_MANIFESTS = ("pyproject.toml", "pixi.toml", "setup.py", "setup.cfg")
# A version of the other distribution: `dagster-slurm>=1.5`, `dagster-slurm = "==1.22.0"`, `"dagster-slurm[ray]~=1.2"`.
_PIN = re.compile(
    r"""dagster[-_]slurm(?:\[[\w, -]*\])?["']?\s*=?\s*["']?\s*(?:[=~>]=|===|>)\s*(?P<version>[1-9][\w.]*)"""
)
# An argument of the constructor that means something, unless it is None.
_REFUSED_FIELDS = frozenset({"ray_head_allocation"})
_ALLOCATION = "a Ray cluster has the nodes of its job"
_WITHOUT_EFFECT = frozenset({"remote_pack_timeout", "enable_cluster_reuse", "cluster_reuse_tolerance"})
_METHODS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "get_pipes_client": ("clients", "`compute.run(context, payload_path)` makes the client, and uses it"),
        "get_run_allocation_session": ("allocations", "each call has an allocation of its own"),
        "set_auth_provider": ("before-connect", "`SSHConnectionResource(before_connect=...)` is run before each login"),
    }
)
_CLIENT_ARGUMENTS = frozenset({"slurm_resource", "launcher", "session_resource", "ssh_resource"})


# What a payload calls that reports to Dagster.
_PAYLOAD = "open_dagster_pipes"


@dataclass(frozen=True)
class Note:
    """Something that a file says.

    Args:
        path: The file.
        line: The number of the line.
        what: What stands there.
        instead: What to write, or what becomes of it.
        anchor: The section of the migration page.
        has_to_change: Whether it would be refused as it stands.
    """

    path: str
    line: int
    what: str
    instead: str
    anchor: str
    has_to_change: bool = True

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}: {self.instead} ({refused.PAGE}#{self.anchor})"


def survey(directory: Path) -> list[Note]:
    """What the files below a directory have to change, in the order of the files.

    Raises:
        ConfigurationError: There is no such directory.
    """
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is not a directory", hint="Name the directory of the project.")
    return [note for path in _files(directory) for note in _of_file(path, str(path.relative_to(directory)))]


def _files(directory: Path) -> Iterator[Path]:
    for place, directories, names in os.walk(directory):
        # A virtual environment has the other distribution itself.
        directories[:] = sorted(
            name
            for name in directories
            if not name.startswith(".") and name not in _PASSED_OVER and not Path(place, name, "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            if name.endswith(".py") or name in _MANIFESTS or re.fullmatch(r"requirements.*\.txt", name):
                yield Path(place, name)


def _of_file(path: Path, name: str) -> Iterator[Note]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        yield Note(name, 1, f"it cannot be read ({error.strerror})", "look at it by hand", "the-afternoon")
        return
    if not name.endswith(".py") or path.name in _MANIFESTS:
        yield from _pins(text, name)
        return
    if PACKAGE in text:
        yield from notes_of(text, name)
    if _PAYLOAD in text:
        beside = {each.stem if each.suffix == ".py" else each.name for each in path.parent.iterdir()}
        yield from beside_payload(text, name, beside - {path.stem})


def _pins(text: str, name: str) -> Iterator[Note]:
    for number, line in enumerate(text.splitlines(), start=1):
        found = _PIN.search(line)
        if found and not line.lstrip().startswith("#"):
            what = f"it asks for dagster-slurm {found['version']}, which is the other distribution"
            yield Note(name, number, what, "name where this one is installed from", "the-afternoon")


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def notes_of(text: str, name: str) -> list[Note]:
    """What a file of Python has to change. Pure.

    Args:
        text: Its content.
        name: Its name.
    """
    tree = _parsed(text)
    if tree is None:
        return [Note(name, 1, "it cannot be read as Python", "look at it by hand", "the-afternoon")]
    found = [note for node in ast.walk(tree) for note in _of_node(node, name)]
    return sorted(found, key=lambda note: note.line)


def beside_payload(text: str, name: str, beside: Collection[str]) -> list[Note]:
    """What a payload imports that lies beside it, where a copy of it does not find it. Pure.

    Args:
        text: The payload.
        name: Its name.
        beside: The modules in its directory.
    """
    found: dict[str, Note] = {}
    for node in ast.walk(_parsed(text) or ast.Module([], [])):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        else:
            continue
        for top in (module.partition(".")[0] for module in modules):
            if top in beside and top not in found:
                what = f"the payload imports {top}, which lies beside it"
                instead = "found in a copy only if `extra_files` or the environment has it"
                found[top] = Note(name, node.lineno, what, instead, "behaviour", has_to_change=False)
    return list(found.values())


def _of_node(node: ast.AST, name: str) -> Iterator[Note]:
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from _of_import(node, node.module, name)
    elif isinstance(node, ast.ClassDef):
        yield from _of_class(node, name)
    elif isinstance(node, ast.Call):
        yield from _of_call(node, name)


def _of_import(node: ast.ImportFrom, module: str, name: str) -> Iterator[Note]:
    if module.partition(".")[0] != PACKAGE:
        return
    # The names that a module of 1.22 still has; None for one of ours.
    names = PATHS.get(module.partition(".")[2], None if spec_of(module) is None else ())
    for alias in node.names:
        if alias.name in refused.__dict__ and _is_refused(getattr(refused, alias.name)):
            error = refused.refusal(alias.name)
            instead, _, anchor = str(error.hint).rpartition(f" See {refused.PAGE}#")
            is_caught = alias.name in ("SlurmStepDrained", "SlurmAllocationEnded")
            yield Note(name, node.lineno, alias.name, instead.rstrip("."), anchor.rstrip("."), not is_caught)
        elif names is not None and alias.name not in (*names, "*"):
            yield Note(name, node.lineno, f"{module}.{alias.name}", "it is refused at its first use", "modules")
        elif names is not None:
            instead = f"it can stay; `from {PACKAGE} import {alias.name}` is its place"
            yield Note(name, node.lineno, f"{module}.{alias.name}", instead, "modules", has_to_change=False)


def _is_refused(found: object) -> bool:
    return isinstance(found, refused.Refused) or getattr(found, "__name__", "") in refused.FUNCTIONS


def _of_class(node: ast.ClassDef, name: str) -> Iterator[Note]:
    methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    if "prepare_execution" in methods and "plan" not in methods:
        instead = "write `plan(self, payload, place)`, which returns a `LaunchPlan`, in its place"
        yield Note(name, node.lineno, f"{node.name}.prepare_execution", instead, "launchers")


def _of_call(node: ast.Call, name: str) -> Iterator[Note]:
    called = _name_of(node.func)
    given = {each.arg: each.value for each in node.keywords if each.arg}
    if called == "ComputeResource":
        yield from _of_resource(given, name)
    elif called in ("SlurmPipesClient", "LocalPipesClient") and given.keys() & _CLIENT_ARGUMENTS:
        instead = "`compute.run` makes the client, and uses it"
        yield Note(name, node.lineno, f"{called}({', '.join(sorted(given))})", instead, "clients")
    elif isinstance(node.func, ast.Attribute) and called in _METHODS:
        anchor, instead = _METHODS[called]
        yield Note(name, node.lineno, f"{called}()", instead, anchor)
    elif called == "run" and len(node.args) > 3 and _name_of(node.args[0]) == "context":
        instead = "give the fourth argument, and what follows, by name: `extra_slurm_opts=...`"
        yield Note(name, node.lineno, f"run() with {len(node.args)} arguments by position", instead, "calls")


def _of_resource(given: Mapping[str, ast.expr], name: str) -> Iterator[Note]:
    for field, value in given.items():
        what, is_none = f"ComputeResource({field}=...)", isinstance(value, ast.Constant) and value.value is None
        if field in _REFUSED_FIELDS and not is_none:
            yield Note(name, value.lineno, what, _ALLOCATION, "fields-and-arguments")
        elif field in _WITHOUT_EFFECT or field in _REFUSED_FIELDS:
            yield Note(name, value.lineno, what, "it has no effect", "fields-and-arguments", has_to_change=False)


def _name_of(node: ast.expr) -> str:
    """The last name of what is called, or of what is given."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
