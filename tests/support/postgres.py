"""PostgreSQL for Dagster's records, as deployments of more than one machine have it.

A server of its own: Debian's programs, on a Unix socket, in a directory of its own, without the service's cluster.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import dagster as dg
import psycopg2
import pytest

from tests.support.waiting import eventually

# The server's own user, of Debian's package: it refuses to run as root.
_USER = "postgres"
_ROLE = "dagster"
_EMPTY = "empty"
# What a deployment has, but for what keeps data when the machine loses power. `max_connections` is the default.
_SETTINGS = {
    "listen_addresses": "",
    "dynamic_shared_memory_type": "mmap",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
}
# The server ends with whoever started it, however that ends.
_WHILE_ASKED = '"$@" & read -r _; kill -QUIT $!; wait'


def programs() -> Path | None:
    """The directory of the newest server that is installed; Debian has none of its programs on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Server:
    """A server that runs.

    Args:
        directory: Of its socket.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()

    def url(self, database: str) -> str:
        # SQLAlchemy 2.1 would look for psycopg 3, and dagster-postgres brings psycopg2.
        return f"postgresql+psycopg2://{_ROLE}@/{database}?host={self._directory}"

    def empty_storage(self) -> str:
        """The URL of a database in which Dagster's tables are, and nothing else: 0.1 s in place of 4 s."""
        self._make_empty()
        name = f"storage_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_EMPTY}")
        return self.url(name)

    def execute(self, statement: str) -> None:
        connection = psycopg2.connect(host=str(self._directory), user=_ROLE, dbname="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    @cache  # noqa: B019 - one server a session
    def _make_empty(self) -> None:
        self.execute(f"CREATE DATABASE {_EMPTY}")
        settings = {"telemetry": {"enabled": False}, **storage_at(self.url(_EMPTY))}
        with (
            tempfile.TemporaryDirectory() as home,
            dg.DagsterInstance.local_temp(home, overrides=settings) as instance,
        ):
            assert instance.get_runs() == []


def storage_at(url: str) -> dict[str, object]:
    """What stands in `dagster.yaml`."""
    return {"storage": {"postgres": {"postgres_url": url}}}


@contextmanager
def running() -> Iterator[Server]:
    """A server while the block lasts."""
    found = programs()
    if found is None:
        pytest.fail("PostgreSQL is missing: `make test` installs Debian's package postgresql.", pytrace=False)
    # A socket's path has room for 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    other = {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}
    if other:
        shutil.chown(directory, _USER, _USER)
    data = directory / "data"
    made = ["--no-sync", "--auth=trust", f"--username={_ROLE}", "--encoding=UTF8", "--no-locale", f"--pgdata={data}"]
    subprocess.run([found / "initdb", *made], cwd="/", check=True, stdout=subprocess.DEVNULL, **other)  # type: ignore[call-overload]
    settings = [f"-c{name}={value}" for name, value in {**_SETTINGS, "unix_socket_directories": directory}.items()]
    with (directory / "log").open("wb") as log:
        shell = ["sh", "-c", _WHILE_ASKED, "sh", found / "postgres", "-D", data, *settings]
        process = subprocess.Popen(shell, cwd="/", stdin=subprocess.PIPE, stdout=log, stderr=log, **other)  # type: ignore[call-overload]
    server = Server(directory)
    try:
        eventually(lambda: _answers(server), (directory / "log").read_text, seconds=60.0)
        yield server
    finally:
        process.communicate()
        shutil.rmtree(directory)


def _answers(server: Server) -> bool:
    try:
        server.execute("SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True
