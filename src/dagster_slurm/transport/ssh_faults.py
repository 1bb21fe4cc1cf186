"""What `ssh` says when it cannot connect, as typed errors. Pure."""

from __future__ import annotations

import re

from dagster_slurm.errors import (
    AuthenticationError,
    ConnectionFailedError,
    HostKeyError,
    HostNotFoundError,
    SSHConfigurationError,
    TransportError,
)

_HOST_OF_KEY = re.compile(r"(?:Host key for|host key is known for) (\S+)")
SESSION_REFUSED = "Session open refused by peer"
_LOGIN_REFUSED = ("Permission denied", "Too many authentication failures")
_UNKNOWN_HOST = "Could not resolve hostname"
# What is left of a ProxyCommand, or ProxyJump, that failed.
_PROXY_FAILED = "Connection closed by UNKNOWN port"
_END_OF_PROXY = (_PROXY_FAILED, "kex_exchange_identification: ")
_MULTIPLEXING = ("ControlPath", "ControlSocket", "control socket", "muxserver_listen", "unix_listener", "mux_client")


def connection_fault(said: str, returncode: int | None, *, host: str) -> TransportError:
    """The error for what `ssh` said when it could not connect, or lost its connection."""
    last = said.splitlines()[-1].strip() if said else f"ssh ended with status {returncode}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return HostKeyError(
            f"The host key is not the one on record{_whose_key(said)}: "
            "the host was reinstalled, or somebody is in between",
            hint="Ask the site; if the new key is right, remove the old one with `ssh-keygen -R`.",
            host=host,
        )
    if "Host key verification failed" in said:
        return HostKeyError(
            f"The host key is not known{_whose_key(said)}",
            hint='Log in once with `ssh` to record it, or set host_key_checking="accept-new".',
            host=host,
        )
    if SESSION_REFUSED in said:
        return ConnectionFailedError(
            "The server opens no further session over the shared connection (its MaxSessions)", host=host
        )
    if any(words in said for words in _LOGIN_REFUSED):
        return AuthenticationError(
            f"The login was refused: {_line_with(said, _LOGIN_REFUSED)}",
            hint="Check the user name and the key or password; where a code is asked for, run `dagster-slurm login`.",
            host=host,
        )
    if _UNKNOWN_HOST in said and "Temporary failure" not in said:
        return HostNotFoundError(
            f"The host is not known: {_line_with(said, (_UNKNOWN_HOST,))}",
            hint="Check the host's name, or the network.",
            host=host,
        )
    if "Bad configuration option" in said or "Bad owner or permissions" in said:
        return SSHConfigurationError(f"OpenSSH's configuration is not usable: {last}", host=host)
    if _PROXY_FAILED in last:
        return _proxy_fault(said, host=host)
    return ConnectionFailedError(f"The connection failed: {last}", host=host)


def _proxy_fault(said: str, *, host: str) -> ConnectionFailedError:
    lines = [line.strip() for line in said.splitlines()]
    before = [line for line in lines if line and not any(phrase in line for phrase in _END_OF_PROXY)]
    why = f": {before[-1]}" if before else ""
    hint = "ssh hides what its ProxyJump or ProxyCommand says: log in by hand to see it, or set jump_host."
    return ConnectionFailedError(f"The way to the host failed{why}", hint=None if before else hint, host=host)


def _whose_key(said: str) -> str:
    """Whose key it is; of several hosts on the way, it may be any."""
    found = _HOST_OF_KEY.search(said)
    return f" (that of {found[1]})" if found else ""


def _line_with(said: str, phrases: tuple[str, ...]) -> str:
    """The line that says so; others may follow it."""
    return next(line.strip() for line in said.splitlines() if any(phrase in line for phrase in phrases))


def is_about_multiplexing(said: str) -> bool:
    """Whether the shared connection failed for a reason that a connection of one's own does not have."""
    return any(word in said for word in _MULTIPLEXING)
