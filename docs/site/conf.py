"""The documentation site: `make docs`. ADR 27 has the reasons."""

from __future__ import annotations

import logging
import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dagster import Resolvable
from pydantic import BaseModel
from sphinx.application import Sphinx

from dagster_slurm import __version__

# Its import of Dagster's storage is told at length.
logging.getLogger("alembic").setLevel(logging.WARNING)
project = "dagster-slurm"
author = "the maintainers of dagster-slurm"
version = release = __version__
root_doc = "docs/site/index"
include_patterns = ["docs/**", "examples/*/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "changelog/README.md"]
# Directories that are not walked.
exclude_patterns = [
    ".*",
    "benchmarks",
    "build",
    "dist",
    "docs/adr/0000-template.md",
    "scripts",
    "src",
    "tests",
]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinxcontrib.mermaid"]
html_theme = "furo"
# Two dashes are an option's.
smartquotes = False
html_title = f"dagster-slurm {release}"
html_extra_path = ["extra"]
html_copy_source = False
# Pages of before are at their paths in the repository, so that links between them hold in both.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# No object of its own for each: `run`, `run_partitions` and `plan` take the same arguments.
napoleon_use_ivar = True


def add_fields(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Put the fields of a resource, which pydantic has, where its docstring would have arguments."""
    del app, name, options
    if what != "class" or not issubclass(found, BaseModel):
        return
    # A component's texts are in its schema.
    schema = found.model().model_fields if issubclass(found, Resolvable) else {}
    lines.append("")
    for field, info in found.model_fields.items():
        default = "required" if info.is_required() else f"default ``{info.get_default(call_default_factory=True)!r}``"
        text = info.description or getattr(schema.get(field), "description", None) or ""
        said = re.sub(r"`([^`]+)`", r"``\1``", text).replace("\n", " ")
        lines.append(f":param {field}: {said} ({default})")
        lines.append(f":type {field}: {_text_of(info.annotation)}")
    lines.append("")


def in_rest(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Docstrings have single backticks for code; so has a text without its own links to names."""
    del app, name, found, options
    if what == "module":
        # A tree is below its first paragraph.
        lines[1:1] = ["", "::"]
        return
    text = re.sub(r"(?<![`:])`([^`]+)`(?![`_])", lambda found: f"``{found[1]}``".replace("\n", " "), "\n".join(lines))
    lines[:] = text.split("\n")


def without_fields(
    app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """No signature for resources: it would be all fields once more, as pydantic has them."""
    del app, name, options, signature, returns
    return ("", "") if what == "class" and issubclass(found, BaseModel) else None


def _text_of(hint: Any) -> str:
    """A type as one would write it: without what pydantic validates, and without the modules of names."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _text_of(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_text_of, arguments))
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_text_of, arguments))}]"
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint).rpartition(".")[2]


_TITLED = re.compile(r'^```(\w+) title="([^"]+)"$', re.MULTILINE)


def show_titles(app: Sphinx, name: str, source: list[str]) -> None:
    """Say before a block which file it is, as its fence does."""
    del app, name
    source[0] = _TITLED.sub(r"`\2`:\n\n```\1", source[0])


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.connect("source-read", show_titles)
    app.connect("autodoc-process-docstring", in_rest)
    app.connect("autodoc-process-docstring", add_fields, priority=600)
    app.connect("autodoc-process-signature", without_fields)
