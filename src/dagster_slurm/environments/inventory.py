"""The environments that lie on a cluster: listed, verified, removed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments.cache import DIRECTORY
from dagster_slurm.errors import EnvironmentNotFoundError, RemoteStorageError
from dagster_slurm.transport.base import name_below, reading

_REMOVE_SECONDS = 3600.0


class Standing(Enum):
    """What an entry is."""

    CURRENT = "current"
    SUPERSEDED = "superseded"
    DEPLOYED = "deployed"
    PARTIAL = "partial"


@dataclass(frozen=True)
class Entry:
    """An environment that lies there.

    Args:
        name: Its directory's name.
        path: Where it lies.
        standing: What it is.
        used_epoch: When it was used last, in seconds since 1970 by the cluster's clock.
        size_bytes: What its files have.
        title: What it is, in words; empty if that is not known.
        platform: What it was made for.
    """

    name: str
    path: str
    standing: Standing
    used_epoch: int
    size_bytes: int
    title: str = ""
    platform: str = ""


@dataclass(frozen=True)
class Inventory:
    """What lies there.

    Args:
        now_epoch: The cluster's time.
        entries: The environments.
        parts: How many parts there are.
        parts_bytes: What they have.
    """

    now_epoch: int = 0
    entries: tuple[Entry, ...] = ()
    parts: int = 0
    parts_bytes: int = 0


def parse(text: str, directory: str) -> Inventory:
    """What `environment_list` prints. Pure."""
    now, parts, parts_bytes = 0, 0, 0
    entries = []
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "now":
            now = int(rest)
        elif word == "parts":
            parts, parts_bytes = map(int, rest.split())
        elif word == "entry":
            name, kind, used, size, described = rest.split(" ", 4)
            said = _said(described)
            entries.append(
                Entry(
                    name,
                    f"{directory}/{name_below(name)}",
                    Standing(kind),
                    int(used),
                    int(size),
                    said.get("title", ""),
                    said.get("platform", ""),
                )
            )
    return Inventory(now, tuple(entries), parts, parts_bytes)


def _said(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


class Shelf:
    """The environments below `remote_base`.

    Args:
        cluster: The cluster.
    """

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster
        self.directory = f"{cluster.base()}/{DIRECTORY}"

    def inventory(self) -> Inventory:
        """What lies there."""
        answer = self._cluster.script("environment_list", (self.directory,))
        with reading(f"The list of {self.directory}", host=self._cluster.host):
            return parse(answer.text, self.directory)

    def problem(self, name: str) -> str:
        """What is wrong with an entry; empty if nothing is.

        Raises:
            EnvironmentNotFoundError: There is none of that name.
        """
        answer = self._cluster.script("environment_verify", (self.directory, name), timeout_seconds=_REMOVE_SECONDS)
        if answer.returncode == 74:
            raise EnvironmentNotFoundError(
                f"There is no environment {name} in {self.directory}",
                hint="`dagster-slurm env list` lists all of them.",
                host=self._cluster.host,
            )
        return answer.reason if answer.returncode else ""

    def remove(self, entries: Sequence[Entry], *, part_days: int) -> set[str]:
        """Remove entries that were not used since they were listed, and parts of old; the names of what is gone."""
        listed = "".join(f"{entry.name} {entry.used_epoch}\n" for entry in entries).encode()
        answer = self._cluster.script(
            "environment_remove", (self.directory, str(part_days)), stdin=listed, timeout_seconds=_REMOVE_SECONDS
        )
        if answer.returncode:
            raise RemoteStorageError(f"Cannot tidy up {self.directory}: {answer.reason}", host=self._cluster.host)
        return {line.removeprefix("removed ") for line in answer.text.splitlines() if line.startswith("removed ")}

    def mark_deployed(self, path: str) -> None:
        """Have `prune` leave an entry."""
        self._cluster.transport.command(("touch", "--", f"{path}/.deployed"))
