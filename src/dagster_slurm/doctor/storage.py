"""The directory for runs: its file system, the room in it, and whether it can be written."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dagster_slurm.doctor.finding import Finding, fine, from_error, skipped, warning, wrong
from dagster_slurm.doctor.world import Facts, World, read_facts
from dagster_slurm.errors import ConfigurationError, TransportTimeoutError
from dagster_slurm.text import size_words
from dagster_slurm.transport import CompletedCommand, SSHConnection
from dagster_slurm.transport.shell_transport import storage_fault

SPACE, WRITING = "space", "writing"
_GIB = 1 << 30
# Less than a run needs for its own files.
_NOTHING_BYTES = 1 << 20
_FEW_INODES = 0.01
_REMEDY = "Free space there, or choose another directory with SLURM_REMOTE_BASE."


@dataclass(frozen=True)
class Room:
    """What `df` says of a directory.

    Args:
        file_system: Its type, such as `nfs4`.
        mount: Where it is mounted.
        size_bytes: Its size.
        free_bytes: What this user may still write.
        inodes: How many files it can hold; None if it has no such limit.
        free_inodes: How many more.
    """

    file_system: str
    mount: str
    size_bytes: int
    free_bytes: int
    inodes: int | None
    free_inodes: int | None


# Paths have up to 4096 bytes.
_LONGEST_LINE = 5000


def parse_room(blocks: str, inodes: str) -> Room | None:
    """Read a line of `df -PTk` and one of `df -Pi`; None if the first is not one."""
    if max(len(blocks), len(inodes)) > _LONGEST_LINE:
        return None
    row = re.fullmatch(r".+?\s+(\S+)\s+(\d{1,18})\s+\d+\s+(-?\d{1,18})\s+\S+\s+(/.*)", blocks, re.ASCII)
    if row is None:
        return None
    files = re.fullmatch(r".+?\s+(\d{1,18})\s+\d+\s+(\d{1,18})\s+\S+\s+/.*", inodes, re.ASCII)
    total, free = (int(files[1]), int(files[2])) if files else (0, 0)
    # btrfs and some network file systems tell 0 of 0.
    return Room(
        file_system=row[1],
        mount=row[4],
        size_bytes=int(row[2]) * 1024,
        free_bytes=max(0, int(row[3])) * 1024,
        inodes=total or None,
        free_inodes=free if total else None,
    )


@dataclass(frozen=True)
class Quota:
    """One line of `quota -w` or `lfs quota`: of blocks (KiB) or of files; 0 is no limit."""

    file_system: str
    what: str
    used: int
    soft: int
    hard: int

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be written."""
        return 0 < self.hard <= self.used

    @property
    def is_over(self) -> bool:
        """Whether the grace period runs."""
        return 0 < self.soft < self.used

    def __str__(self) -> str:
        return f"{self.used:,} of {self.hard or self.soft:,} {self.what} on {self.file_system}"


def parse_quotas(lines: Sequence[str]) -> list[Quota]:
    """Read the tables of `quota -w` (quota(1)) and `lfs quota`, which have the same columns; those with a limit.

    "FILESYSTEM BLOCKS QUOTA LIMIT [GRACE] FILES QUOTA LIMIT [GRACE]"; a star marks what is over. A long name of a
    file system may stand in a line of its own.
    """
    quotas = []
    for line in re.sub(r"\n[ \t]+(?=\d)", " ", "\n".join(lines)).splitlines():
        words = line.split()
        numbers = [int(word.rstrip("*")) for word in words[1:] if re.fullmatch(r"\d{1,18}\*?", word, re.ASCII)]
        if len(numbers) >= 6 and words[0].lower() != "disk":
            quotas += [Quota(words[0], "KiB", *numbers[:3]), Quota(words[0], "files", *numbers[3:6])]
    return [quota for quota in quotas if quota.soft or quota.hard]


def check_space(world: World) -> Finding:
    """Whether there is room for runs."""
    base = world.cluster.base()
    return judge_space(base, read_facts(_ask(world, "space", base).text))


def _ask(world: World, name: str, base: str) -> CompletedCommand:
    try:
        return world.run(name, [base])
    except TransportTimeoutError as error:
        error.hint = f"The file system of {base} may hang: try `ls` there on the login node, and ask the site."
        raise


def judge_space(base: str, facts: Facts) -> Finding:
    """Whether there is room."""
    room = parse_room(facts.get("blocks", [""])[0], facts.get("inodes", [""])[0])
    quotas = parse_quotas(facts.get("quota", []))
    if room is None:
        return warning(SPACE, f"`df` does not say how much space {base} has", "Run `df` on the login node by hand.")
    found = "; ".join([_describe(base, room), *map(str, quotas)])
    if room.free_bytes < _NOTHING_BYTES:
        return wrong(SPACE, f"No space is left for {base} (file system {room.mount})", _REMEDY, found)
    full = next((quota for quota in quotas if quota.is_full), None)
    if full is not None:
        return wrong(SPACE, f"The quota is used up: {full}", _REMEDY, found)
    return _judge_little(base, room, quotas, found)


def _judge_little(base: str, room: Room, quotas: Sequence[Quota], found: str) -> Finding:
    over = next((quota for quota in quotas if quota.is_over), None)
    if over is not None:
        return warning(SPACE, f"The quota is exceeded, and its grace period runs: {over}", _REMEDY, found)
    if room.free_bytes < _GIB:
        return warning(SPACE, f"Only {size_words(room.free_bytes)} are left for {base}", _REMEDY, found)
    if room.inodes and (room.free_inodes or 0) < _FEW_INODES * room.inodes:
        return warning(SPACE, f"Only {room.free_inodes:,} files can be made for {base}", _REMEDY, found)
    return fine(SPACE, found)


def _describe(base: str, room: Room) -> str:
    files = f", {room.free_inodes:,} files" if room.free_inodes is not None else ""
    return f"{base} on {room.file_system}: {size_words(room.free_bytes)} of {size_words(room.size_bytes)} free{files}"


def check_writing(world: World) -> Finding:
    """Whether a run could make its directory there."""
    base = world.cluster.base()
    # Without Slurm's commands, other steps say what is wrong.
    with suppress(ConfigurationError):
        world.cluster.refuse_foreign_base()
    answer = _ask(world, "writing", base)
    if answer.returncode == 0:
        return judge_writing(base, read_facts(answer.text))
    said = answer.reason
    fault = storage_fault(said, what=base, host=world.cluster.host)
    if fault is not None:
        remedy = (fault.hint or "").replace("`remote_base`", "remote_base (SLURM_REMOTE_BASE)")
        return from_error(WRITING, fault, remedy=remedy)
    return wrong(WRITING, f"Cannot write {base}: {said}", "Choose another directory with SLURM_REMOTE_BASE.")


def judge_writing(base: str, facts: Facts) -> Finding:
    """Whether what was made there is kept from others."""
    directory, file = facts["mode"][0], facts["file"][0]
    mode, owner = facts["base"][0].split(" ")
    if (directory, file) != ("700", "600"):
        return warning(
            WRITING,
            f"{base} does not keep modes: a directory made 0700 is 0{directory}, a file made 0600 is 0{file}",
            "Others could read secrets of runs; choose a file system with Unix permissions.",
        )
    if int(mode, 8) & 0o022 and not int(mode, 8) & 0o1000:
        whoever = "Everybody" if int(mode, 8) & 0o002 else "The members of its group"
        return warning(
            WRITING,
            f"{whoever} may write to {base} (mode 0{mode}), and so put other directories in the place of ours",
            f"Run `chmod go-w {base}`, or choose another one.",
        )
    return fine(WRITING, f"{base} (mode 0{mode}, of {owner}): made, wrote, renamed, linked, removed")


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
