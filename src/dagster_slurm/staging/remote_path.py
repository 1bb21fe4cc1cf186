"""A path that is where jobs run, and is used there."""

from __future__ import annotations

from dataclasses import dataclass

from dagster_slurm.errors import InvalidRequestError


@dataclass(frozen=True)
class RemotePath:
    """A file or directory on the cluster (in mode `local`: on this machine), which a job reads in place.

    Args:
        path: Its absolute path there.
        host: Which cluster, as the resource names its login node (`me@login.cluster`); None for wherever the job runs.

    Raises:
        InvalidRequestError: The path is not absolute, or holds what no path there may hold.
    """

    path: str
    host: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no path."""
        if not self.path.startswith("/") or not {"\n", "\0"}.isdisjoint(self.path):
            raise InvalidRequestError(
                f"RemotePath {self.path!r} is not an absolute path", hint="It begins with `/`, and has one line."
            )

    def on(self, host: str) -> str:
        """The path, for a job that runs there.

        Raises:
            InvalidRequestError: It is a path of another host.
        """
        if self.host is not None and self.host != host:
            raise InvalidRequestError(
                f"{self.path} lies on {self.host}, and the job runs on {host}",
                hint="Materialise it there as well; or, if both see the same file system, give the path as "
                f"RemotePath({self.path!r}).",
            )
        return self.path

    def __truediv__(self, name: str) -> RemotePath:
        """What lies below it."""
        return RemotePath(f"{self.path.rstrip('/')}/{name}", self.host)
