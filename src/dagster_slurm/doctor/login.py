"""Host key, login and the connection that comes of it, one attempt judged three times; then its shell and its clock."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from dagster_slurm.doctor.finding import Finding, fine, from_error, skipped, warning, wrong
from dagster_slurm.doctor.way import Way, way_to
from dagster_slurm.doctor.world import Facts, World
from dagster_slurm.errors import AuthenticationError, HostKeyError, TransportError
from dagster_slurm.job.connection import shared_directory
from dagster_slurm.text import counted
from dagster_slurm.transport import OpenSSHTransport, SSHConnection
from dagster_slurm.transport.pool import why_foreign
from dagster_slurm.transport.shell import quote

_CLOCK = "clock"
_NOTICEABLE_SECONDS = 5.0
_WRONG_SECONDS = 60.0
_REMEDY = "Have both machines keep time by NTP (`timedatectl` says whether this one does)."


def check_clock(world: World) -> Finding:
    """Ask for the time there, between two looks at the clock here."""
    world.log_in()
    before = world.clock()
    there = float(world.gather("clock")["time"][0])
    return judge_clock(before, there, world.clock())


def skew_seconds(before: float, there: float, after: float) -> float:
    """How far the clock there is ahead at least: it was read between two looks at the one here."""
    if there > after:
        return there - after
    return min(0.0, there - before)


def judge_clock(before: float, there: float, after: float) -> Finding:
    """Kerberos refuses from 5 minutes on; times from sacct mislead earlier."""
    skew = skew_seconds(before, there, after)
    if abs(skew) < _NOTICEABLE_SECONDS:
        return fine(
            _CLOCK, f"this machine and the login node agree within {max(abs(skew), after - before, 0.001):.3f} s"
        )
    ahead = "behind" if skew > 0 else "ahead of"
    problem = f"This machine's clock is {abs(skew):,.0f} s {ahead} the login node's"
    if abs(skew) < _WRONG_SECONDS:
        return warning(_CLOCK, problem, f"{_REMEDY[:-1]}, before it grows.")
    return wrong(_CLOCK, problem, f"{_REMEDY[:-1]}: Kerberos refuses tickets, and the times of jobs are misread.")


_SHELL = "shell"
_OLDEST_BASH = 4


def check_shell(world: World) -> Finding:
    """What runs our commands."""
    world.log_in()
    connection = world.connection
    return judge_shell(world.gather("shell"), tty=connection is not None and connection.has_tty)


def judge_shell(facts: Facts, *, tty: bool) -> Finding:
    """Whether a run finds what it needs; noise is only told, for answers are framed."""
    found = _describe(facts, tty=tty)
    missing = facts.get("missing", [])
    if missing:
        return wrong(
            _SHELL,
            f"Not on the PATH of the login node: {', '.join(missing)}",
            "Extend PATH for shells that are not interactive, or use post_login_command; bash, GNU coreutils, tar and "
            "util-linux are needed.",
            found,
        )
    version = re.match(r"\d+", facts["bash"][0])
    if version and int(version.group()) < _OLDEST_BASH:
        return wrong(_SHELL, f"bash is {facts['bash'][0]}, and 4 is needed", "Put a newer bash on the PATH.", found)
    return fine(_SHELL, found)


def _describe(facts: Facts, *, tty: bool) -> str:
    noise = int(facts["noise"][0])
    said = f"prints {counted(noise, 'byte')} by itself, which is harmless here" if noise else "quiet"
    return f"{facts['shell'][0]}, {'with' if tty else 'without'} a TTY, {said}; bash {facts['bash'][0]}"


HOST_KEY, LOGIN, CONNECTION = "host key", "login", "connection"
_HERE = "not needed, Slurm's commands are run on this machine"


def check_host_key(world: World) -> Finding:
    """Whether the login node is the one on record."""
    connection = world.connection
    if connection is None:
        return skipped(HOST_KEY, _HERE)
    way = way_to(connection)
    was_known = is_recorded(connection, way)
    try:
        world.log_in()
    except HostKeyError as error:
        return from_error(HOST_KEY, error, remedy=host_key_remedy(connection, way, error))
    except AuthenticationError:
        # The server is asked for a login after its key was checked.
        pass
    except TransportError:
        return skipped(HOST_KEY, "there was no connection to see it on")
    return judge_host_key(connection, way.key_name, was_known=was_known, was_open=world.was_open)


def judge_host_key(connection: SSHConnection, name: str, *, was_known: bool, was_open: bool) -> Finding:
    """What a login that came as far as this says of the host key."""
    if was_open:
        return fine(HOST_KEY, f"{name}, checked when the connection was opened")
    if connection.host_key_checking == "off":
        return warning(
            HOST_KEY,
            "The host key is not checked, and somebody in between would not be noticed",
            "Record the key with `ssh-keyscan`, compare it with what the site publishes, and set HOST_KEY_CHECKING to "
            "strict.",
        )
    if was_known:
        return fine(HOST_KEY, f"{name} is the one on record")
    if connection.host_key_checking == "accept-new":
        return fine(HOST_KEY, f"{name} was not known and is on record now (accept-new)")
    return fine(HOST_KEY, f"{name} is trusted by OpenSSH's configuration")


def is_recorded(connection: SSHConnection, way: Way) -> bool:
    """Whether a key of the host is on record, hashed names included."""
    return any(_finds(way.key_name, file) for file in known_hosts_files(connection, way))


def known_hosts_files(connection: SSHConnection, way: Way) -> tuple[str, ...]:
    """The configured file of known hosts, or those of OpenSSH's configuration."""
    given = connection.known_hosts_file
    return (given,) if given else way.known_hosts


def _finds(name: str, file: str) -> bool:
    argv = ["ssh-keygen", "-F", name, "-f", str(Path(file).expanduser())]
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        # A client without it; the login still decides.
        return False


def host_key_remedy(connection: SSHConnection, way: Way, error: HostKeyError) -> str:
    """The commands to type."""
    if "on record" not in error.message:
        return error.hint or ""
    files = known_hosts_files(connection, way)
    where = f" -f {quote(files[0])}" if files else ""
    return (
        f"Ask the site for its fingerprint; if the new key is right, run `ssh-keygen -R {quote(way.key_name)}{where}` "
        "and log in once with `ssh`."
    )


def method(connection: SSHConnection) -> str:
    """How a login would be made."""
    if connection.key_path:
        return f"with the key {connection.key_path}"
    if connection.password is not None:
        return "with the password"
    if connection.askpass_command is not None:
        return "with the answers of the askpass_command"
    return "with what ~/.ssh/config and the agent offer"


def offered_methods(said: str) -> tuple[str, ...]:
    """What a server would have taken, from "Permission denied (publickey,password)."; empty if it is not told."""
    found = re.search(r"Permission denied \(([\w,-]+)\)", said)
    return tuple(found[1].split(",")) if found else ()


def login_remedy(connection: SSHConnection, error: TransportError) -> str:
    """What to do about a login that was refused."""
    if not isinstance(error, AuthenticationError):
        return error.hint or "Try `ssh -v` by hand, from this machine and as this user."
    if "refused" not in error.message:
        # A prompt that nobody answered: the error says which.
        return error.hint or ""
    offered = offered_methods(error.message)
    if connection.key_path and not connection.may_be_asked and offered and "publickey" not in offered:
        return f"The server takes no keys, only {', '.join(offered)}: set PASSWORD, or run `dagster-slurm login`."
    if connection.password and offered and not {"password", "keyboard-interactive"} & set(offered):
        return f"The server takes no passwords, only {', '.join(offered)}: set KEY_PATH."
    if connection.password:
        return "Correct USER and PASSWORD; it was tried once only, for accounts lock."
    if connection.key_path:
        return f"Check USER, and that the public half of {connection.key_path} is in the account's authorized_keys."
    return error.hint or ""


def check_login(world: World) -> Finding:
    """Whether we come in, and as whom."""
    connection = world.connection
    if connection is None:
        account = world.log_in()
        return fine(LOGIN, f"{account['user'][0]} on {account['host'][0]}, which is this machine")
    try:
        account = world.log_in()
    except TransportError as error:
        return from_error(LOGIN, error, found=f"tried {method(connection)}", remedy=login_remedy(connection, error))
    how = "over a connection that was open" if world.was_open else method(connection)
    found = f"{account['user'][0]} on {account['host'][0]} ({account['system'][0]}), {how}"
    if world.transport.remark:
        return warning(LOGIN, world.transport.remark, "`dagster-slurm doctor --fresh-login` tries it.", found)
    return fine(LOGIN, found)


def check_connection(world: World) -> Finding:
    """Whether all processes share one login, or each has its own."""
    transport, connection = world.transport, world.connection
    foreign = why_foreign(shared_directory())
    if foreign:
        return warning(
            CONNECTION,
            f"Slurm's answers are not shared between processes: {foreign}",
            "Have it removed, or set TMPDIR to a directory of your own: each process asks Slurm for itself.",
        )
    if connection is None or not isinstance(transport, OpenSSHTransport):
        return skipped(CONNECTION, _HERE)
    return judge_connection(connection, is_shared=transport.is_shared, was_open=world.was_open, logins=world.logins)


def judge_connection(connection: SSHConnection, *, is_shared: bool, was_open: bool, logins: int) -> Finding:
    """What the kind of connection costs in logins."""
    took = counted(logins, "login")
    if is_shared:
        opened = "was open" if was_open else "is open now"
        return fine(
            CONNECTION,
            f"shared by all processes, {opened} and stays {connection.control_persist} after its last use; {took}",
        )
    if connection.may_be_asked:
        return fine(CONNECTION, f"one of its own for each process, held open, since something is typed; {took}")
    return warning(
        CONNECTION,
        f"No shared connection can be made, so each process logs in for itself ({took})",
        "Set DAGSTER_SLURM_SSH_CONTROL_DIR to a directory of your own on a local disk; a server with MaxSessions 1 "
        "allows no more.",
    )
