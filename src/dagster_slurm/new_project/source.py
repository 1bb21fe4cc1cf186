"""Where the running package was installed from, as a source for uv: on PyPI, its name alone is another package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from dagster_slurm.errors import ConfigurationError

DISTRIBUTION = "dagster-slurm"
_HINT = "Name a clone, a wheel or a repository: `dagster-slurm init NAME --source PATH_OR_ADDRESS`."


@dataclass(frozen=True)
class Source:
    """An entry of `[tool.uv.sources]`.

    Args:
        table: Its keys and values, as `{"path": "/a/clone", "editable": True}`.
    """

    table: Mapping[str, str | bool]

    @property
    def toml(self) -> str:
        """As a table in one line."""
        written = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in self.table.items())
        return f"{{ {', '.join(written)} }}"


def running_source() -> Source:
    """That of the package that runs.

    Raises:
        ConfigurationError: It is not known, or is no longer there.
    """
    clone = Path(__file__).resolve().parents[3]
    if (clone / "pyproject.toml").is_file() and Path(__file__).is_relative_to(clone / "src"):
        return of_clone(clone)
    return of_direct_url(direct_url())


def direct_url(found: Distribution | None = None) -> Mapping[str, Any] | None:
    """What the installer has noted of an installed package's origin (PEP 610); None for one from an index.

    Args:
        found: The package; by default ours.
    """
    try:
        text = (found or distribution(DISTRIBUTION)).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return json.loads(text) if text else None


def of_clone(directory: Path) -> Source:
    """A clone, whose changes count at once."""
    return Source({"path": str(directory), "editable": True})


def of_direct_url(noted: Mapping[str, Any] | None) -> Source:
    """The source that an installer's note stands for.

    Args:
        noted: The content of `direct_url.json` (PEP 610); None where there is none.

    Raises:
        ConfigurationError: There is none, or it is no clone, wheel or repository of git, or that is gone.
    """
    if noted is None:
        raise ConfigurationError(
            "Where dagster-slurm was installed from is not known: it came from a package index", hint=_HINT
        )
    url, vcs = str(noted["url"]), noted.get("vcs_info")
    if vcs is not None:
        if vcs["vcs"] != "git":
            raise ConfigurationError(
                f"dagster-slurm was installed from {url} with {vcs['vcs']}, which uv cannot", hint=_HINT
            )
        inside = {"subdirectory": noted["subdirectory"]} if noted.get("subdirectory") else {}
        return Source({"git": url, "rev": vcs["commit_id"], **inside})
    if urlparse(url).scheme != "file":
        return Source({"url": url})
    path = Path(unquote(urlparse(url).path))
    if not path.exists():
        raise ConfigurationError(f"dagster-slurm was installed from {path}, which is gone", hint=_HINT)
    if path.is_file():
        return Source({"path": str(path)})
    is_editable = bool(noted.get("dir_info", {}).get("editable"))
    return Source({"path": str(path), "editable": True} if is_editable else {"path": str(path)})


def of_text(text: str) -> Source:
    """The source that a user has named: a clone, a wheel, or the address of a wheel or a repository of git.

    Raises:
        ConfigurationError: There is no such file or directory.
    """
    if "://" in text or text.startswith("git@"):
        address, is_git = text.removeprefix("git+"), text.startswith(("git+", "git@")) or text.endswith(".git")
        return Source({"git": address} if is_git else {"url": address})
    path = Path(text).expanduser().resolve()
    if not path.exists():
        raise ConfigurationError(f"There is no {path}", hint=_HINT)
    return of_clone(path) if path.is_dir() else Source({"path": str(path)})
