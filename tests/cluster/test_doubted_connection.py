"""A shared connection whose sessions end without a word, though `ssh -O check` calls it alive."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dagster_slurm.errors import AuthenticationError
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport import OpenSSHTransport
from dagster_slurm.transport.openssh import ControlMaster
from tests.ssh import connection_of, control_directory
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

Opened = Callable[[], OpenSSHTransport]


@pytest.fixture
def opened(sandbox: Sandbox) -> Iterator[Opened]:
    """Opens transports that share one connection, as those of two processes do."""
    transports: list[OpenSSHTransport] = []
    with control_directory() as directory:

        def open_one() -> OpenSSHTransport:
            transports.append(OpenSSHTransport(connection_of(sandbox.env(), control_dir=directory)))
            return transports[-1]

        yield open_one
        for transport in transports:
            transport.disconnect()


@contextmanager
def wordless(home: Path, test: str) -> Iterator[None]:
    """The login's shells end with success, and say nothing, where the test is true."""
    file = home / ".bashrc"
    before = file.read_text() if file.exists() else None
    file.write_text(f"if {test}; then exit 0; fi\n{before or ''}")
    try:
        yield
    finally:
        file.unlink() if before is None else file.write_text(before)


def seen_from(transport: OpenSSHTransport) -> tuple[Path, str]:
    """The login's home, and the two ends of the TCP connection that carries the transport."""
    home, _, connection = transport.run('printf %s "$HOME $SSH_CONNECTION"').text.partition(" ")
    return Path(home), connection


def test_it_is_replaced_and_what_is_open_goes_on(
    sandbox: Sandbox, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """It was taken for a login whose shell ends by itself, for good; before, it was tried again for five minutes."""
    first, other = opened(), opened()
    home, connection = seen_from(first)
    assert seen_from(other) == (home, connection)
    first.close()
    before = sandbox.logins()
    with wordless(home, f'[ "$SSH_CONNECTION" = "{connection}" ]'), caplog.at_level(logging.WARNING, "dagster_slurm"):
        assert ControlMaster(first.connection).is_alive()
        assert seen_from(first)[1] != connection
        assert seen_from(other)[1] == connection
        other.close()
        assert seen_from(other) == seen_from(opened()) == seen_from(first)
    assert sandbox.logins() - before == 1
    assert [record.message for record in caplog.records] == [
        f"{first.host}: the shared connection is replaced, since its sessions end without a word"
    ]


def test_it_is_replaced_once(sandbox: Sandbox, opened: Opened) -> None:
    """A login whose shell ends by itself is not logged in to again and again."""
    first = opened()
    home, connection = seen_from(first)
    first.close()
    before = sandbox.logins()
    with wordless(home, ":"):
        for _ in range(3):
            with pytest.raises(AuthenticationError, match="it says nothing") as caught:
                first.run(":")
            assert not caught.value.transient
        eventually(lambda: sandbox.logins() - before == 1)
    assert seen_from(first) != (home, connection)
    assert sandbox.logins() - before == 1
