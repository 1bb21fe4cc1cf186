"""Whether the installed dagster-slurm is the one that a project names: `python -m dagster_slurm.new_project.check`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.new_project.source import DISTRIBUTION, Source, direct_url, of_direct_url

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def fault_of_installation(project: Path) -> str:
    """What is wrong with what is installed; empty if nothing is.

    Args:
        project: The project's `pyproject.toml`.
    """
    named = tomllib.loads(project.read_text(encoding="utf-8")).get("tool", {}).get("uv", {}).get("sources", {})
    return fault(named.get(DISTRIBUTION), direct_url())


def fault(named: Mapping[str, Any] | None, noted: Mapping[str, Any] | None) -> str:
    """The same. Pure but for a look at the path.

    Args:
        named: The entry of `[tool.uv.sources]`.
        noted: The installer's note (PEP 610).
    """
    if named is None:
        return f"pyproject.toml names no source of {DISTRIBUTION} in [tool.uv.sources]: on PyPI it is another package"
    try:
        installed = of_direct_url(noted)
    except ConfigurationError as error:
        return error.message
    # A branch or a tag is a commit once it is installed.
    places = [{key: source.get(key) for key in ("path", "url", "git")} for source in (named, installed.table)]
    if places[0] != places[1]:
        return f"{Source(named).toml} is named in pyproject.toml, and {installed.toml} is installed: `uv sync` mends it"
    return ""


def main() -> int:
    """Check the project of the working directory, and print what is installed.

    Returns:
        The exit code: 1 if it is another one.
    """
    found = fault_of_installation(Path("pyproject.toml"))
    if found:
        print(f"dagster-slurm: {found}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
