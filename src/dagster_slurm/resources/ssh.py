"""How to reach a login node, as a resource."""

from __future__ import annotations

import shlex
from typing import Any, Literal

from dagster import ConfigurableResource
from pydantic import Field

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.resources import environment_variables as variables
from dagster_slurm.transport import SSHConnection


class SSHConnectionResource(ConfigurableResource[SSHConnection]):
    """How to reach the login node of a cluster with OpenSSH's client, which also reads `~/.ssh/config`."""

    host: str = Field(description="Name, address, or a `Host` of `~/.ssh/config`.")
    port: int = Field(default=22, description="TCP port.", ge=1, le=65535)
    user: str | None = Field(default=None, description="User name there; by default as `~/.ssh/config` has it.")
    key_path: str | None = Field(default=None, description="Private key to log in with, and then no other.")
    host_key_checking: Literal["strict", "accept-new", "off", "inherit"] = Field(
        default="strict",
        description=(
            "`strict` refuses unknown and changed host keys, `accept-new` only changed ones, `off` none, "
            "`inherit` does as `~/.ssh/config` says."
        ),
    )
    known_hosts_file: str | None = Field(default=None, description="File of known host keys, in place of OpenSSH's.")
    extra_opts: list[str] = Field(
        default=[], description='Further arguments for `ssh`, such as `["-o", "Compression=yes"]`.'
    )

    @classmethod
    def from_env(cls, prefix: str = "SLURM_EDGE_NODE_") -> SSHConnectionResource:
        """Read the connection from environment variables.

        `HOST` is required; `PORT USER KEY_PATH HOST_KEY_CHECKING KNOWN_HOSTS_FILE OPTS_EXTRA` are read if set.

        Args:
            prefix: What the names begin with, with or without its trailing underscore.

        Raises:
            ConfigurationError: The host is missing, or a value cannot be read.
        """
        prefix = prefix if prefix.endswith("_") else f"{prefix}_"
        fields: dict[str, Any] = {
            "host": variables.required(f"{prefix}HOST", "the login node's name or address"),
            "port": variables.number(f"{prefix}PORT", int),
            "user": variables.text(f"{prefix}USER"),
            "key_path": variables.text(f"{prefix}KEY_PATH") or variables.text(f"{prefix}KEY"),
            "host_key_checking": variables.text(f"{prefix}HOST_KEY_CHECKING"),
            "known_hosts_file": variables.text(f"{prefix}KNOWN_HOSTS_FILE"),
            "extra_opts": shlex.split(variables.text(f"{prefix}OPTS_EXTRA") or ""),
        }
        _refuse_unsupported(prefix)
        return cls(**{name: value for name, value in fields.items() if value is not None})

    def connection(self) -> SSHConnection:
        """The connection as the transport takes it."""
        control = {
            "control_dir": variables.text("DAGSTER_SLURM_SSH_CONTROL_DIR"),
            "control_persist": variables.text("DAGSTER_SLURM_SSH_CONTROL_PERSIST"),
        }
        return SSHConnection(
            host=self.host,
            port=self.port,
            user=self.user,
            key_path=self.key_path,
            host_key_checking=self.host_key_checking,
            known_hosts_file=self.known_hosts_file,
            extra_opts=tuple(self.extra_opts),
            **{name: value for name, value in control.items() if value is not None},
        )


def _refuse_unsupported(prefix: str) -> None:
    for name in ("PASSWORD", "JUMP_HOST", "POST_LOGIN_COMMAND"):
        if variables.text(f"{prefix}{name}") is not None:
            raise ConfigurationError(
                f"{prefix}{name} is set, and this release logs in with a key only",
                hint=f"Unset it and set {prefix}KEY_PATH; a jump host can be set in ~/.ssh/config (ProxyJump).",
            )
