"""How to reach a login node, and what `ssh` is called with for it. Pure, but that `ssh` is asked for its release."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dagster_slurm.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    HostKeyError,
    HostNotFoundError,
    SSHConfigurationError,
    TransportError,
)
from dagster_slurm.transport.shell import quote


@cache
def _session_options() -> tuple[str, ...]:
    """What has `ssh` run a command on our stdin, whatever ~/.ssh/config says; releases before 8.7 know none of it."""
    try:
        said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr
    except FileNotFoundError:
        return ()
    found = re.match(r"OpenSSH_(\d+)\.(\d+)", said)
    if found is None or tuple(map(int, found.groups())) < (8, 7):
        return ()
    return ("-o", "StdinNull=no", "-o", "ForkAfterAuthentication=no", "-o", "SessionType=default")


_DEFAULT_PORT = 22
HostKeyChecking = Literal["strict", "accept-new", "off", "inherit"]
# sun_path holds 108 bytes (unix(7)); while binding, ssh appends a dot and 16 characters to the name.
_MAX_SOCKET_PATH_BYTES = 107 - 17
_FLAGS_WITH_VALUE = frozenset(f"-{letter}" for letter in "BbcDEeFIiLlmoPpR")
_STRICT_HOST_KEY_CHECKING: dict[HostKeyChecking, str | None] = {
    "strict": "yes",
    "accept-new": "accept-new",
    "off": "no",
    "inherit": None,
}


# Flags of ssh(1) that one of our command lines cannot have, and what to do instead.
_REFUSED_FLAGS: Mapping[str, str] = {
    "J": "Set jump_host, or ProxyJump in ~/.ssh/config.",
    "q": "Without its messages a refused login looks like an outage.",
    **dict.fromkeys("MSO", "The shared connection is made by dagster-slurm; see control_dir."),
    **dict.fromkeys("NnfTtsWwGVQ", "It changes what ssh does with the commands that dagster-slurm runs."),
}
# The same as options of ssh_config(5).
_REFUSED_OPTIONS: Mapping[str, str] = {
    **dict.fromkeys(("controlmaster", "controlpath", "controlpersist"), _REFUSED_FLAGS["M"]),
    **dict.fromkeys(
        ("remotecommand", "requesttty", "sessiontype", "stdinnull", "forkafterauthentication", "escapechar"),
        _REFUSED_FLAGS["N"],
    ),
}


def refuse_options(extra_opts: Sequence[str]) -> None:
    """Refuse further arguments for `ssh` that cannot be good for all that it is called for.

    Raises:
        ConfigurationError: One is such.
    """
    for before, word in zip(("", *extra_opts), extra_opts, strict=False):
        if before == "-o" or word.startswith("-o"):
            option = re.split(r"[\s=]", word.removeprefix("-o").strip(), maxsplit=1)[0].lower()
            hint = _REFUSED_OPTIONS.get(option)
        elif before in _FLAGS_WITH_VALUE or not word.startswith("-"):
            continue
        else:
            letters = word[1:2] if word[:2] in _FLAGS_WITH_VALUE else word[1:]
            hint = next((_REFUSED_FLAGS[letter] for letter in letters if letter in _REFUSED_FLAGS), None)
        if hint:
            raise ConfigurationError(f"{word!r} cannot be in extra_opts", hint=hint)


@dataclass(frozen=True)
class SSHConnection:
    """How to reach a login node. What is not set is left to `~/.ssh/config`.

    Args:
        host: Name, address, or a `Host` of `~/.ssh/config`.
        port: TCP port; None leaves it to the configuration.
        user: User name there; None leaves it to the configuration.
        key_path: Private key to offer, and then no other.
        host_key_checking: `strict` refuses unknown and changed host keys, `accept-new` only changed ones,
            `off` none, `inherit` does as `~/.ssh/config` says.
        known_hosts_file: File of known host keys, in place of OpenSSH's own.
        extra_opts: Further arguments for `ssh`, such as `["-o", "Compression=yes"]`.
        control_dir: Where the shared connection's socket lies.
        control_persist: How long the shared connection stays after its last use, as ssh_config(5) has it.
        password: Answers a prompt for a password, once for each login, and no other prompt.
        askpass_command: Answers what else is asked for, such as a one-time code: it is given the prompt as its last
            argument, and the first line it prints is the answer.
        before_connect: What is run on this machine before each login, such as what renews a certificate.
        batch_mode: Never ask on the terminal; `inherit` leaves that to the configuration.
        force_tty: Have a TTY at the far end; a login with a password has one anyway.
        post_login_command: Wraps what is run at the far end, which stands in the place of `{cmd}`.
        jump: The host to go through.
    """

    host: str
    port: int | None = None
    user: str | None = None
    key_path: str | None = None
    host_key_checking: HostKeyChecking = "strict"
    known_hosts_file: str | None = None
    extra_opts: tuple[str, ...] = ()
    control_dir: str = "~/.ssh/dagster-slurm"
    control_persist: str = "10m"
    password: str | None = field(default=None, repr=False)
    askpass_command: str | None = None
    batch_mode: bool | Literal["inherit"] = True
    force_tty: bool = False
    post_login_command: str | None = None
    before_connect: str | None = None
    jump: SSHConnection | None = None

    def __post_init__(self) -> None:
        for name, value in (("host", self.host), ("user", self.user)):
            if value is not None and (not value or value.startswith("-") or any(map(str.isspace, value))):
                raise ConfigurationError(
                    f"The SSH {name} {value!r} is not a name",
                    hint="Give a host name, an address or a Host of ~/.ssh/config, without user or port.",
                )
        refuse_options(self.extra_opts)

    @property
    def label(self) -> str:
        """The other end, for logs and errors."""
        host = f"{self.user}@{self.host}" if self.user else self.host
        return f"{host}:{self.port}" if self.port not in (None, 22) else host

    @property
    def may_be_asked(self) -> bool:
        """Whether somebody or something can answer what the server asks for."""
        return self.password is not None or self.askpass_command is not None or not self.batch_mode

    @property
    def has_tty(self) -> bool:
        """Whether the far end is a TTY."""
        return self.force_tty or self.password is not None

    def hops(self) -> Iterator[SSHConnection]:
        """This host, then the hosts on the way to it, nearest to it first."""
        yield self
        if self.jump is not None:
            yield from self.jump.hops()

    def keys(self) -> str:
        """The keys that it offers, for a file that says with what a connection was made."""
        return "\n".join(hop.key_path or "" for hop in self.hops())

    def refuse_missing_keys(self) -> None:
        """Refuse key files that are not there: ssh passes over them, and an open connection hides them.

        Raises:
            SSHConfigurationError: One is not.
        """
        for hop in self.hops():
            if hop.key_path is not None and not Path(hop.key_path).expanduser().exists():
                raise SSHConfigurationError(
                    f"There is no key file {hop.key_path} on this machine",
                    hint="Correct key_path (KEY_PATH), or leave it to `~/.ssh/config`.",
                    host=hop.label,
                )

    def remote_command(self, command: str) -> str:
        """What is run at the far end so that `command` runs there."""
        if self.post_login_command is None:
            return command
        if "{cmd}" in self.post_login_command:
            return self.post_login_command.replace("{cmd}", quote(command))
        return f"{self.post_login_command} && {command}"

    def arguments(self) -> list[str]:
        """What every `ssh` of this connection is called with, options first, without the host.

        Source: ssh(1), ssh_config(5). Of an option given twice the first counts, and the command line comes before
        the configuration files.
        """
        options = {
            "BatchMode": "no" if self.may_be_asked else "yes" if self.batch_mode is True else None,
            # Accounts lock: a wrong password is tried once.
            "NumberOfPasswordPrompts": "1",
            "ConnectTimeout": "15",
            # A dead link is found within 30 s.
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "2",
            "StrictHostKeyChecking": _STRICT_HOST_KEY_CHECKING[self.host_key_checking],
            "UserKnownHostsFile": self._known_hosts(),
            "IdentitiesOnly": "yes" if self.key_path else None,
            "ForwardAgent": "no",
            "ForwardX11": "no",
            # What ~/.ssh/config has for working by hand is in the way of a connection for commands.
            "ClearAllForwardings": "yes",
            "RemoteCommand": "none",
        }
        # Errors are told apart by what ssh says of them: before anything that would have it say nothing.
        arguments = ["-o", "LogLevel=INFO", *self.extra_opts, *_session_options()]
        for name, value in options.items():
            arguments += ["-o", f"{name}={value}"] if value is not None else []
        arguments += ["-i", str(Path(self.key_path).expanduser())] if self.key_path else []
        arguments += ["-p", str(self.port)] if self.port is not None else []
        arguments += ["-l", self.user] if self.user else []
        return arguments

    def _identity(self) -> Iterator[tuple[object, ...]]:
        for hop in self.hops():
            yield (hop.host, hop.port, hop.user, hop.host_key_checking, hop.known_hosts_file, hop.extra_opts)

    def _known_hosts(self) -> str | None:
        if self.host_key_checking == "off":
            return "/dev/null"
        if self.known_hosts_file is None:
            return None
        return f'"{Path(self.known_hosts_file).expanduser()}"'

    def way(self) -> tuple[object, ...]:
        """What tells whoever gets there alike, as the same user, from others."""
        return (str(self.control_path()), *((hop.key_path, hop.post_login_command) for hop in self.hops()))

    def control_path(self) -> Path:
        """Where the socket of the shared connection lies.

        There is one for each user, host and port, and for each trust in host keys: how the login was made does not
        matter to who uses it. A path too long for the system is replaced by one below `/tmp`, for this user alone.
        """
        name = hashlib.sha256(repr((os.getuid(), *self._identity())).encode()).hexdigest()[:16]
        path = Path(self.control_dir).expanduser() / name
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
            return path
        return Path(tempfile.gettempdir()) / f"dagster-slurm-{os.getuid()}" / name


_HOST_OF_KEY = re.compile(r"(?:Host key for|host key is known for) (\S+)")
SESSION_REFUSED = "Session open refused by peer"
_LOGIN_REFUSED = ("Permission denied", "Too many authentication failures")
# Of a private key that others may read, and of one that is none.
_UNUSED_KEY = re.compile(r"^(?:(Permissions \S+ for .* are too open\.)|Load key .*?)\r?$", re.MULTILINE)
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
        unused = _UNUSED_KEY.search(said)
        return AuthenticationError(
            f"The login was refused: {_line_with(said, _LOGIN_REFUSED)}",
            hint=_of_unused_key(unused)
            if unused
            else "Check the user name and the key or password; where a code is asked for, run `dagster-slurm login`.",
            host=host,
        )
    if _UNKNOWN_HOST in said and "Temporary failure" not in said:
        return HostNotFoundError(
            f"The host is not known: {_line_with(said, (_UNKNOWN_HOST,))}",
            hint="Check the host's name, or the network.",
            host=host,
        )
    if "Bad configuration option" in said or "Bad owner or permissions" in said:
        hint = "Correct extra_opts (OPTS_EXTRA), or `~/.ssh/config`."
        return SSHConfigurationError(f"OpenSSH's configuration is not usable: {last}", hint=hint, host=host)
    if _PROXY_FAILED in last:
        return _proxy_fault(said, host=host)
    return ConnectionFailedError(f"The connection failed: {last}", hint="Check host, port and network.", host=host)


def _of_unused_key(found: re.Match[str]) -> str:
    mends = " `chmod 600` mends that." if found[1] else "; key_path has to name a private key."
    return f"ssh has not used the key: {found[0].strip()}{mends}"


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


def connection_of(fields: Mapping[str, Any], jump: SSHConnection | None) -> SSHConnection:
    """A connection as the transport takes it.

    Args:
        fields: Those of `SSHConnectionResource`; None where one is not set.
        jump: The host to go through.

    Raises:
        ConfigurationError: A value is not usable.
    """
    values = {
        **fields,
        "port": None if fields["port"] == _DEFAULT_PORT else fields["port"],
        "extra_opts": tuple(fields["extra_opts"]),
        "control_dir": os.environ.get("DAGSTER_SLURM_SSH_CONTROL_DIR", "").strip() or None,
        "control_persist": os.environ.get("DAGSTER_SLURM_SSH_CONTROL_PERSIST", "").strip() or None,
    }
    del values["jump_host"]
    return SSHConnection(**{name: value for name, value in values.items() if value is not None}, jump=jump)
