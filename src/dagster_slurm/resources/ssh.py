"""How to reach a login node, as a resource."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from dagster import ConfigurableResource, EnvVar
from pydantic import ConfigDict, Field

from dagster_slurm.resources import environment_variables as variables
from dagster_slurm.resources.field_types import Port
from dagster_slurm.transport import SSHConnection

_DEFAULT_PORT = 22


class SSHConnectionResource(ConfigurableResource[SSHConnection]):
    """How to reach the login node of a cluster with OpenSSH's client, which also reads `~/.ssh/config`."""

    # A typo in a field's name is refused, not dropped.
    model_config = ConfigDict(extra="forbid")

    host: str = Field(description="Name, address, or a `Host` of `~/.ssh/config`.")
    port: Port = Field(default=22, description="TCP port; 22 stands for what `~/.ssh/config` says, and 22 otherwise.")
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
    password: str | None = Field(
        default=None,
        repr=False,
        description="Answers a prompt for a password, once for each login, and no other prompt. Better an `EnvVar`.",
    )
    askpass_command: str | None = Field(
        default=None,
        description="Answers what else is asked for, such as a one-time code: it is given the prompt as its last "
        "argument, and the first line it prints is the answer.",
    )
    batch_mode: bool = Field(default=True, description="Never ask on the terminal.")
    force_tty: bool = Field(
        default=False, description="Have a TTY at the far end; a login with a password has one anyway."
    )
    post_login_command: str | None = Field(
        default=None,
        description="Wraps what is run at the far end, which stands in the place of `{cmd}`: `sudo -u me sh -c {cmd}`.",
    )
    jump_host: SSHConnectionResource | None = Field(
        default=None, description="The host to go through, with its own login and host-key policy; it may have one too."
    )

    @classmethod
    def from_env(cls, prefix: str = "SLURM_EDGE_NODE_") -> SSHConnectionResource:
        """Read the connection from environment variables.

        `HOST` is required; `PORT USER KEY_PATH KEY PASSWORD ASKPASS_COMMAND FORCE_TTY POST_LOGIN_COMMAND OPTS_EXTRA
        HOST_KEY_CHECKING KNOWN_HOSTS_FILE BATCH_MODE` are read if set, and the same for a jump host under `JUMP_`.

        Args:
            prefix: What the names begin with, with or without its trailing underscore.

        Raises:
            ConfigurationError: The host is missing, or a value cannot be read.
        """
        prefix = prefix if prefix.endswith("_") else f"{prefix}_"
        jump = f"{prefix}JUMP_"
        fields: dict[str, Any] = {
            "host": variables.required(f"{prefix}HOST", "the host's name or address"),
            "port": variables.number(f"{prefix}PORT", int),
            "user": variables.text(f"{prefix}USER"),
            "key_path": variables.text(f"{prefix}KEY_PATH") or variables.text(f"{prefix}KEY"),
            # By its name: Dagster shows a resource's configuration, and resolves the variable when it is used.
            "password": EnvVar(f"{prefix}PASSWORD") if variables.text(f"{prefix}PASSWORD") else None,
            "askpass_command": variables.text(f"{prefix}ASKPASS_COMMAND"),
            "force_tty": variables.flag(f"{prefix}FORCE_TTY"),
            "post_login_command": variables.text(f"{prefix}POST_LOGIN_COMMAND"),
            "host_key_checking": variables.text(f"{prefix}HOST_KEY_CHECKING"),
            "known_hosts_file": variables.text(f"{prefix}KNOWN_HOSTS_FILE"),
            "batch_mode": variables.flag(f"{prefix}BATCH_MODE"),
            "extra_opts": variables.words(f"{prefix}OPTS_EXTRA"),
            "jump_host": cls.from_env(jump) if variables.text(f"{jump}HOST") else None,
        }
        names = {"extra_opts": "OPTS_EXTRA"}
        return variables.build(cls, fields, lambda field: prefix + names.get(field, field.upper()))

    def connection(self) -> SSHConnection:
        """The connection as the transport takes it."""
        connection = SSHConnection(
            host=self.host,
            port=None if self.port == _DEFAULT_PORT else self.port,
            user=self.user,
            key_path=self.key_path,
            host_key_checking=self.host_key_checking,
            known_hosts_file=self.known_hosts_file,
            extra_opts=tuple(self.extra_opts),
            password=self.password.get_value() if isinstance(self.password, EnvVar) else self.password,
            askpass_command=self.askpass_command,
            batch_mode=self.batch_mode,
            force_tty=self.force_tty,
            post_login_command=self.post_login_command,
            jump=self.jump_host.connection() if self.jump_host else None,
        )
        directory = variables.text("DAGSTER_SLURM_SSH_CONTROL_DIR")
        persist = variables.text("DAGSTER_SLURM_SSH_CONTROL_PERSIST")
        return replace(
            connection,
            control_dir=directory or connection.control_dir,
            control_persist=persist or connection.control_persist,
        )
