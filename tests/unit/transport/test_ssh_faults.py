"""What OpenSSH 9.2 says, and the errors that are made of it."""

from __future__ import annotations

import pytest

from dagster_slurm.errors import AuthenticationError, ConnectionFailedError, HostKeyError, TransportError
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
