"""The way to the login node: its name, and its port."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from dagster_slurm.doctor.finding import Finding, fine, skipped, wrong
from dagster_slurm.doctor.world import World
from dagster_slurm.errors import ConfigurationError
from dagster_slurm.transport import SSHConnection

NAME, PORT = "name", "port"
_CONNECT_TIMEOUT_SECONDS = 15.0
_BANNER_TIMEOUT_SECONDS = 10.0
_CONFIG_TIMEOUT_SECONDS = 30.0
# RFC 4253, 4.2: lines may come before the one with the version, each of at most 255 bytes here.
_BANNER_LINES, _BANNER_LINE_BYTES = 50, 255


@dataclass(frozen=True)
class Way:
    """Where `ssh` would connect to, with its configuration files read.

    Args:
        asked: The host as it was named.
        host: The host that is looked up.
        port: The TCP port.
        proxy: What the connection goes through by configuration, empty for nothing.
        key_alias: The name its key is on record by, if it is not the host's.
        known_hosts: The user's files of known host keys.
    """

    asked: str
    host: str
    port: int
    proxy: str = ""
    key_alias: str = ""
    known_hosts: tuple[str, ...] = ()

    @property
    def key_name(self) -> str:
        """The name that files of known hosts have for it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
        return self.key_alias or (self.host if self.port == 22 else f"[{self.host}]:{self.port}")


def parse_ssh_config(asked: str, text: str) -> Way:
    """Read what `ssh -G` printed (ssh(1), option -G).

    Raises:
        ConfigurationError: It is no such thing.
    """
    options = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    if not re.fullmatch(r"\d{1,5}", options.get("port", "22"), re.ASCII):
        raise ConfigurationError(f"`ssh -G` names the port {options['port'][:20]!r}", hint="Which program is `ssh`?")
    return Way(
        asked=asked,
        host=options.get("hostname", asked),
        port=int(options.get("port", "22")),
        proxy=_proxy(options),
        key_alias=options.get("hostkeyalias", ""),
        known_hosts=tuple(options.get("userknownhostsfile", "").split()),
    )


def _proxy(options: Mapping[str, str]) -> str:
    jump, command = (options.get(name, "none") for name in ("proxyjump", "proxycommand"))
    if jump != "none":
        return f"ProxyJump {jump}"
    # Its arguments may hold a password.
    return f"ProxyCommand {' '.join(command.split()[:1])} ..." if command != "none" else ""


def first_hop(connection: SSHConnection) -> SSHConnection:
    """The host that this machine itself connects to."""
    return list(connection.hops())[-1]


def way_to(connection: SSHConnection) -> Way:
    """Ask `ssh` where it would connect to.

    Raises:
        ConfigurationError: It refuses its options or its configuration.
    """
    argv = ["ssh", "-G", *connection.arguments(), "--", connection.host]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=_CONFIG_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        # A `Match exec` of the configuration that does not end.
        raise ConfigurationError("`ssh -G` does not end", hint="Look for `Match exec` in ~/.ssh/config.") from None
    if done.returncode:
        raise ConfigurationError(
            f"OpenSSH's configuration is not usable: {done.stderr.strip()[-300:]}",
            hint="Correct ~/.ssh/config, or the extra options.",
        )
    return parse_ssh_config(connection.host, done.stdout)


def check_name(world: World) -> Finding:
    """Whether the host's name leads to an address."""
    connection = world.settings.connection
    if connection is None:
        return skipped(NAME, "not needed, Slurm's commands are run on this machine")
    way = way_to(first_hop(connection))
    if way.proxy:
        return skipped(NAME, f"{way.asked} is looked up beyond the proxy of OpenSSH's configuration ({way.proxy})")
    try:
        found = socket.getaddrinfo(way.host, way.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return wrong(
            NAME,
            f"The host name {way.host} does not lead to an address ({reason})",
            "Check the name in HOST (or HostName in ~/.ssh/config), and whether this network, or its VPN, knows it.",
        )
    addresses = ", ".join(dict.fromkeys(str(each[4][0]) for each in found))
    return fine(NAME, f"{_named(way)} is {addresses}")


def check_port(world: World) -> Finding:
    """Whether an SSH server answers there."""
    connection = world.settings.connection
    if connection is None:
        return skipped(PORT, "not needed, Slurm's commands are run on this machine")
    way = way_to(first_hop(connection))
    if way.proxy:
        return skipped(PORT, f"{way.asked} is reached through the proxy of OpenSSH's configuration ({way.proxy})")
    try:
        banner = read_banner(way.host, way.port)
    except OSError as error:
        return wrong(
            PORT,
            f"Port {way.port} of {way.host} cannot be reached: {error.strerror or 'no answer in time'}",
            "Check PORT (22 is usual), whether the login node is up, and whether a firewall or VPN is in between.",
        )
    return judge_banner(way, banner)


def read_banner(host: str, port: int, *, timeout_seconds: float = _BANNER_TIMEOUT_SECONDS) -> str:
    """What a server says first, up to the line with an SSH version; empty if it says nothing in time.

    Raises:
        OSError: No connection.
    """
    said: list[bytes] = []
    with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_SECONDS) as connection:
        connection.settimeout(timeout_seconds)
        with connection.makefile("rb") as stream:
            try:
                while len(said) < _BANNER_LINES and (line := stream.readline(_BANNER_LINE_BYTES)):
                    said.append(line)
                    if line.startswith(b"SSH-"):
                        break
            except OSError:
                # Silence or a reset: what was said before tells what it is.
                pass
    return b"".join(said).decode("utf-8", "replace")


def judge_banner(way: Way, banner: str) -> Finding:
    """Whether what was said is an SSH server's greeting."""
    lines = banner.splitlines()
    version = next((line for line in lines if line.startswith("SSH-")), None)
    if version is not None:
        return fine(PORT, f"port {way.port} of {way.host} answers as {version.strip()}")
    said = f"says {lines[0].strip()[:60]!r}" if lines else f"says nothing within {_BANNER_TIMEOUT_SECONDS:.0f} s"
    return wrong(
        PORT,
        f"At port {way.port} of {way.host} is no SSH server: it {said}",
        "Check PORT (22 is usual); if it is right, the server hangs or is overloaded: ask the site.",
    )


def _named(way: Way) -> str:
    return way.host if way.host == way.asked else f"{way.asked} (HostName {way.host})"
