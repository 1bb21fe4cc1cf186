"""What OpenSSH 9.2 says, and the errors that are made of it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dagster_slurm import SSHConnectionResource
from dagster_slurm.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    HostKeyError,
    TransportError,
)
from dagster_slurm.transport import SSHConnection
from dagster_slurm.transport.openssh import own_end
from dagster_slurm.transport.ssh_connection import connection_fault

CLOSED = "kex_exchange_identification: Connection closed by remote host\r\nConnection closed by UNKNOWN port 65535"


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            "No ED25519 host key is known for [gate]:22 and you have requested strict checking.\r\n"
            f"Host key verification failed.\r\n{CLOSED}",
            HostKeyError,
            "The host key is not known (that of [gate]:22)",
        ),
        ("Host key verification failed.", HostKeyError, "The host key is not known"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\nHost key for gate has changed and you have "
            f"requested strict checking.\r\nHost key verification failed.\r\n{CLOSED}",
            HostKeyError,
            "The host key is not the one on record (that of gate): the host was reinstalled, or somebody is in between",
        ),
        (
            f"me@gate: Permission denied (publickey).\r\n{CLOSED}",
            AuthenticationError,
            "The login was refused: me@gate: Permission denied (publickey).",
        ),
        (
            f"ssh: connect to host gate port 22: Connection refused\r\n{CLOSED}",
            ConnectionFailedError,
            "The way to the host failed: ssh: connect to host gate port 22: Connection refused",
        ),
        ("Connection closed by UNKNOWN port 65535", ConnectionFailedError, "The way to the host failed"),
        ("", ConnectionFailedError, "The connection failed: ssh ended with status 255"),
    ],
)
def test_a_fault_names_the_hop_that_failed(said: str, kind: type[TransportError], message: str) -> None:
    fault = connection_fault(said, 255, host="cluster")
    assert (type(fault), fault.message, fault.host) == (kind, message, "cluster")


def test_where_ssh_hides_why_the_error_says_how_to_see_it() -> None:
    assert "log in by hand" in str(connection_fault("Connection closed by UNKNOWN port 65535", 255, host="cluster"))


class TestFurtherArguments:
    """What people give to ssh besides has to be good for all that it is called for."""

    @pytest.mark.parametrize(
        "given",
        [
            # It logged in and opened no channel: "does not answer", for five minutes.
            ["-J", "gate"],
            ["-Jgate"],
            # A refused login was told as an outage, and tried again and again.
            ["-q"],
            ["-Cq"],
            ["-o", "StdinNull=yes"],
            ["-oStdinNull yes"],
            ["-o", "ControlPath=/x"],
            ["-o", "RemoteCommand=x"],
            ["-N"],
            ["-f"],
            ["-T"],
            ["-S", "/x"],
        ],
    )
    def test_refused_when_the_resource_is_made(self, given: list[str]) -> None:
        with pytest.raises(ConfigurationError, match="cannot be in extra_opts"):
            SSHConnection("login", extra_opts=tuple(given))
        with pytest.raises(ValueError, match="cannot be in extra_opts"):
            SSHConnectionResource(host="login", extra_opts=given)

    @pytest.mark.parametrize(
        "given",
        [
            [],
            ["-C"],
            ["-4C"],
            ["-F", "/q"],
            ["-o", "ProxyCommand=nc -q %h %p"],
            ["-o", "ProxyJump=gate"],
            ["-oCompression=yes"],
            ["-i", "-q"],
            ["-vvv"],
            ["-b", "-J"],
        ],
    )
    def test_taken(self, given: list[str]) -> None:
        assert SSHConnectionResource(host="login", extra_opts=given).connection().extra_opts == tuple(given)

    def test_what_ssh_says_is_set_before_anything_else(self) -> None:
        arguments = SSHConnection("login", extra_opts=("-o", "LogLevel=QUIET")).arguments()
        assert arguments[:2] == ["-o", "LogLevel=INFO"]


@pytest.mark.parametrize(
    ("said", "status", "is_open", "is_its_own"),
    [
        ("This account is currently not available.", 1, False, True),
        ("This service allows sftp connections only.", 1, False, True),
        ("WARNING: Your password has expired.", 1, False, True),
        ("", 0, False, True),
        # Of ssh itself, of a signal, and of a shell that has served before.
        ("Connection closed by remote host", 255, False, False),
        ("", 137, False, False),
        ("", None, False, False),
        ("", 1, True, False),
        ("Session open refused by peer", 1, False, False),
    ],
)
def test_a_shell_that_ends_by_itself_is_no_outage(
    said: str, status: int | None, is_open: bool, is_its_own: bool
) -> None:
    """It was waited for without end."""
    found = own_end(said, status, "login", [cast(Any, None)] if is_open else [])
    assert (found is not None) == is_its_own
    assert found is None or (not found.transient and (said or "it says nothing") in str(found))
