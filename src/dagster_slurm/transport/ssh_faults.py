"""What `ssh` says when it cannot connect, as typed errors. Pure."""

from __future__ import annotations

from dagster_slurm.errors import (
    AuthenticationError,
    ConnectionFailedError,
    HostKeyError,
    HostNotFoundError,
    SSHConfigurationError,
    TransportError,
)

SESSION_REFUSED = "Session open refused by peer"
_MULTIPLEXING = ("ControlPath", "ControlSocket", "control socket", "muxserver_listen", "unix_listener", "mux_client")


def connection_fault(said: str, returncode: int | None, *, host: str) -> TransportError:
    """The error for what `ssh` said when it could not connect, or lost its connection."""
    last = said.splitlines()[-1].strip() if said else f"ssh ended with status {returncode}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return HostKeyError(
            "The host key is not the one on record: the host was reinstalled, or somebody is in between",
            hint="Ask the site; if the new key is right, remove the old one with `ssh-keygen -R`.",
            host=host,
        )
    if "Host key verification failed" in said:
        return HostKeyError(
            "The host key is not known",
            hint='Log in once with `ssh` to record it, or set host_key_checking="accept-new".',
            host=host,
        )
    if SESSION_REFUSED in said:
        return ConnectionFailedError(
            "The server opens no further session over the shared connection (its MaxSessions)", host=host
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        return AuthenticationError(
            f"The login was refused: {last}",
            hint="Check the user name and the key or password; where a code is asked for, run `dagster-slurm login`.",
            host=host,
        )
    if "Could not resolve hostname" in said and "Temporary failure" not in said:
        return HostNotFoundError(
            f"The host is not known: {last}", hint="Check the host's name, or the network.", host=host
        )
    if "Bad configuration option" in said or "Bad owner or permissions" in said:
        return SSHConfigurationError(f"OpenSSH's configuration is not usable: {last}", host=host)
    return ConnectionFailedError(f"The connection failed: {last}", host=host)


def is_about_multiplexing(said: str) -> bool:
    """Whether the shared connection failed for a reason that a connection of one's own does not have."""
    return any(word in said for word in _MULTIPLEXING)
