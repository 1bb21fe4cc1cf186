"""Python environments for the cluster's user."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox.config import SandboxPaths

_MARKER = ".complete.json"
_VERSIONS = ("3.14", "3.13", "3.12", "3.11", "3.10")


class Cluster(Protocol):
    """What is needed of a sandbox."""

    paths: SandboxPaths

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command as the cluster's user."""


def candidates() -> Iterator[Path]:
    """Interpreters that may do, the running one's base first."""
    yield Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for directory in ("/usr/local/bin", "/usr/bin"):
        for version in _VERSIONS:
            yield Path(directory) / f"python{version}"


def usable_interpreter(cluster: Cluster) -> Path:
    """An interpreter that the cluster's user can execute: a Python below /root, say, is not.

    Raises:
        SandboxError: There is none.
    """
    for path in candidates():
        if path.exists() and cluster.run([str(path), "-c", "import ssl, venv"]).returncode == 0:
            return path
    raise SandboxError(
        "There is no Python 3.10 to 3.14 that the cluster's user can execute",
        hint="Install Debian's python3.",
    )


def create(cluster: Cluster, name: str, requirements: tuple[str, ...]) -> str:
    """Make an environment, or find the one made before for the same requirements.

    Returns:
        Its path.

    Raises:
        SandboxError: No interpreter, or pip failed.
    """
    directory = cluster.paths.environments / name
    wanted = json.dumps(sorted(requirements))
    marker = directory / _MARKER
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return str(directory)
    # Built in place, since scripts in an environment carry its path; the marker tells a whole one from half a one.
    shutil.rmtree(directory, ignore_errors=True)
    _run([str(usable_interpreter(cluster)), "-m", "venv", "--without-pip", str(directory)])
    if requirements:
        python = str(directory / "bin" / "python")
        _run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *requirements])
    marker.write_text(wanted, encoding="utf-8")
    return str(directory)


def found(cluster: Cluster, name: str) -> str | None:
    """The path of one that is whole."""
    directory = cluster.paths.environments / name
    return str(directory) if (directory / _MARKER).exists() else None


def _run(argv: list[str]) -> None:
    # With the caller's environment: it may name a package index or a directory of wheels.
    done = subprocess.run(argv, capture_output=True, text=True, check=False, umask=0o022)
    if done.returncode != 0:
        raise SandboxError(f"Ended with status {done.returncode}: {done.stderr.strip()}", command=" ".join(argv))
