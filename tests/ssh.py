"""Ways to log in, for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dagster_slurm.transport import OpenSSHTransport, SSHConnection


def connection_of(env: Mapping[str, str], **changes: Any) -> SSHConnection:
    """The connection that the variables of a login node describe."""
    known = {name.removeprefix("SLURM_EDGE_NODE_").lower(): value for name, value in env.items()}
    fields: dict[str, Any] = {
        "host": known["host"],
        "port": int(known["port"]),
        "user": known["user"],
        "key_path": known.get("key_path"),
        "known_hosts_file": known["known_hosts_file"],
        "password": known.get("password"),
        "askpass_command": known.get("askpass_command"),
    }
    if "dagster_slurm_ssh_control_dir" in known:
        fields["control_dir"] = known["dagster_slurm_ssh_control_dir"]
    return SSHConnection(**{**fields, **changes})


@contextmanager
def opened(connection: SSHConnection) -> Iterator[OpenSSHTransport]:
    """A transport; its connection, if it is a shared one, ends with the block."""
    transport = OpenSSHTransport(connection)
    try:
        yield transport
    finally:
        transport.disconnect()


@contextmanager
def control_directory() -> Iterator[str]:
    """A directory of one's own for shared connections; its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ssh-", dir="/tmp") as path:
        yield path
