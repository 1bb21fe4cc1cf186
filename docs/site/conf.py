"""The documentation site: `make docs`. ADR 27 has the reasons."""

from __future__ import annotations

import logging
import re
from typing import Any

from dagster import Config
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
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# No object of its own for each: `run`, `run_partitions` and `plan` take the same arguments.
napoleon_use_ivar = True


def add_fields(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Put the fields of a resource, which pydantic has, where its docstring would have arguments."""
    del app, name, options
    if what != "class" or not issubclass(found, Config):
        return
    lines.append("")
    for field, info in found.model_fields.items():
        default = "required" if info.is_required() else f"default ``{info.get_default(call_default_factory=True)!r}``"
        said = re.sub(r"`([^`]+)`", r"``\1``", info.description or "").replace("\n", " ")
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
    return ("", "") if what == "class" and issubclass(found, Config) else None


def _text_of(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.sub(r"\b(?:typing|dagster_slurm|collections|pydantic)(?:\.\w+)*\.", "", text)


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
