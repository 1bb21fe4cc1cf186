"""Environment variables that say how the cluster is reached. Dagster, which takes a second to load, is not needed."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.transport.ssh_connection import HostKeyChecking, SSHConnection, connection_of

DEFAULT_REMOTE_BASE = "~/dagster_runs"
DEFAULT_PREFIX = "SLURM_EDGE_NODE_"
FORMER_PREFIX = "SLURM_SSH_"
"""What the names began with in 1.22: read where the host is named by it, and not by the default prefix."""
INHERIT = "inherit"
PROFILE_VARIABLE = "DAGSTER_SLURM_PROFILE"
"""Which profile of the site `from_env` and the command line take."""
_PORTS = range(1, 65536)
_FORMS = " docs/configuration.md lists the variables with their forms."
_CLOSES = "DAGSTER_SLURM_SSH_CLOSE_MASTER_ON_EXIT"
_log = logging.getLogger(__name__)
T = TypeVar("T")

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def text_in(name: str) -> str | None:
    """The variable's value without surrounding white space, or None."""
    return os.environ.get(name, "").strip() or None


def required_in(name: str, what: str) -> str:
    """The variable's value.

    Raises:
        ConfigurationError: It is not set.
    """
    value = text_in(name)
    if value is None:
        raise ConfigurationError(f"The environment variable {name} is not set", hint=f"Set it to {what}.")
    return value


def number_in(name: str, kind: Callable[[str], T]) -> T | None:
    """The variable's value as `int` or `float`, or None.

    Raises:
        ConfigurationError: It is not a number.
    """
    value = text_in(name)
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        raise ConfigurationError(
            f"The environment variable {name} is {value!r}", hint="It has to be a number."
        ) from None


def flag_in(name: str) -> bool | None:
    """The variable's value as yes or no, or None.

    Raises:
        ConfigurationError: It is neither.
    """
    value = text_in(name)
    if value is None:
        return None
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise ConfigurationError(
        f"The environment variable {name} is {value!r}",
        hint=f"Allowed are {', '.join((*_TRUE, *_FALSE))}.",
    )


def words_in(name: str) -> list[str]:
    """The variable's words, quoted as for a shell; none if it is not set.

    Raises:
        ConfigurationError: A quote is not closed.
    """
    try:
        return shlex.split(text_in(name) or "")
    except ValueError as error:
        raise ConfigurationError(f"The environment variable {name} cannot be read: {error}") from None


def _port_in(name: str) -> int | None:
    port = number_in(name, int)
    if port is not None and port not in _PORTS:
        problem = f"The environment variable {name} is not usable: {port}"
        raise ConfigurationError(problem, hint=f"Allowed are {_PORTS[0]} to {_PORTS[-1]}.{_FORMS}")
    return port


def _flag_or_inherit_in(name: str) -> bool | str | None:
    """As `flag_in`, or `INHERIT`: as `~/.ssh/config` says."""
    return INHERIT if (text_in(name) or "").lower() == INHERIT else flag_in(name)


def _choice_in(name: str, allowed: Sequence[str]) -> str | None:
    value = text_in(name)
    value = None if value is None else value.lower()
    if value is not None and value not in allowed:
        problem = f"The environment variable {name} is not usable: {value!r}"
        raise ConfigurationError(problem, hint=f"Allowed are {', '.join(allowed)}.{_FORMS}")
    return value


def connection_fields(prefix: str) -> dict[str, Any]:
    """The fields of `SSHConnectionResource` by their variables; None where one is not set.

    Args:
        prefix: What the names begin with, with its trailing underscore.

    Raises:
        ConfigurationError: The host is missing, or a value cannot be read.
    """
    return {
        "host": required_in(f"{prefix}HOST", "the host's name or address"),
        "port": _port_in(f"{prefix}PORT"),
        "user": text_in(f"{prefix}USER"),
        "key_path": text_in(f"{prefix}KEY_PATH") or text_in(f"{prefix}KEY"),
        "password": text_in(f"{prefix}PASSWORD"),
        "askpass_command": text_in(f"{prefix}ASKPASS_COMMAND"),
        "before_connect": text_in(f"{prefix}BEFORE_CONNECT"),
        "force_tty": flag_in(f"{prefix}FORCE_TTY"),
        "post_login_command": text_in(f"{prefix}POST_LOGIN_COMMAND"),
        "host_key_checking": _choice_in(f"{prefix}HOST_KEY_CHECKING", get_args(HostKeyChecking)),
        "known_hosts_file": text_in(f"{prefix}KNOWN_HOSTS_FILE"),
        "batch_mode": _flag_or_inherit_in(f"{prefix}BATCH_MODE"),
        "extra_opts": words_in(f"{prefix}OPTS_EXTRA"),
        "jump_host": connection_fields(f"{prefix}JUMP_") if text_in(f"{prefix}JUMP_HOST") else None,
    }


def prefix_in_use(prefix: str) -> str:
    """A prefix with its trailing underscore; in place of the default one that of 1.22, if only that names a host."""
    prefix = prefix if prefix.endswith("_") else f"{prefix}_"
    if text_in(_CLOSES) is not None:
        _log.warning(
            "%s of dagster-slurm 1.22 is not read: other processes use the shared connection. "
            "DAGSTER_SLURM_SSH_CONTROL_PERSIST says how long it stays after its last use; `dagster-slurm login --end` "
            "ends it. See docs/migration.md#variables.",
            _CLOSES,
        )
    if prefix != DEFAULT_PREFIX or text_in(f"{prefix}HOST") is not None or text_in(f"{FORMER_PREFIX}HOST") is None:
        return prefix
    _log.info("The way to the login node is read from %s*, since %sHOST is not set", FORMER_PREFIX, prefix)
    return FORMER_PREFIX


def connection_from(prefix: str) -> SSHConnection:
    """The connection that `SSHConnectionResource.from_env` makes.

    Args:
        prefix: What the names begin with, with or without its trailing underscore.

    Raises:
        ConfigurationError: The host is missing, or a value is not usable.
    """
    return _connection(connection_fields(prefix_in_use(prefix)))


def _connection(fields: Mapping[str, Any]) -> SSHConnection:
    jump = fields["jump_host"]
    return connection_of(fields, _connection(jump) if jump else None)
