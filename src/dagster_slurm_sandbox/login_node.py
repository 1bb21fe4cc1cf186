"""Further login nodes: an sshd of its own, set up as some site does it, for as long as a block lasts."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import daemons, files, processes, startup, users
from dagster_slurm_sandbox import state as states
from dagster_slurm_sandbox.config import SandboxPaths
from dagster_slurm_sandbox.programs import openssh_version, run, sends_banner, wait_until
from dagster_slurm_sandbox.state import State

_CODE_PROGRAM = Path(__file__).with_name("one_time_code.py")
_PAM_DIRECTORY = Path("/etc/pam.d")


@dataclass(frozen=True)
class LoginNode:
    """A login node that is there while its block lasts.

    Args:
        port: Its port on 127.0.0.1.
        user: The Unix user to log in as.
        password: The user's password; empty if it is not known.
        client_key: The private key that logs in as the user.
        directory: Where its files lie.
        askpass_command: Gives the next one-time code, if the node asks for one.
    """

    port: int
    user: str
    password: str = field(repr=False)
    client_key: Path
    directory: Path
    askpass_command: str | None = None

    @property
    def known_hosts(self) -> Path:
        """The known_hosts file for clients."""
        return self.directory / "known_hosts"

    @property
    def log(self) -> Path:
        """What its sshd logs."""
        return self.directory / "log"

    def env(self, *, password: bool = False) -> dict[str, str]:
        """The environment variables by which dagster-slurm reaches it.

        Args:
            password: Log in with the password, and the code if one is asked for, in place of the key.
        """
        secret = {"SLURM_EDGE_NODE_PASSWORD": self.password}
        if self.askpass_command is not None:
            secret["SLURM_EDGE_NODE_ASKPASS_COMMAND"] = self.askpass_command
        key = {"SLURM_EDGE_NODE_KEY_PATH": str(self.client_key)}
        return {
            "SLURM_EDGE_NODE_HOST": "127.0.0.1",
            "SLURM_EDGE_NODE_PORT": str(self.port),
            "SLURM_EDGE_NODE_USER": self.user,
            "SLURM_EDGE_NODE_KNOWN_HOSTS_FILE": str(self.known_hosts),
            "SLURM_PARTITION": "compute",
            **(secret if password else key),
        }

    def logins(self) -> int:
        """The number of logins so far."""
        return count_in_log(self.log, LOGIN)

    def sessions_opened(self) -> int:
        """The number of session channels opened so far."""
        return count_in_log(self.log, SESSION)

    def failures(self) -> int:
        """The number of attempts to log in that were refused so far."""
        return count_in_log(self.log, FAILURE)


@contextmanager
def login_node(
    paths: SandboxPaths, *, options: Sequence[str], otp: bool, shell: str | None, home_files: Mapping[str, str] | None
) -> Iterator[LoginNode]:
    """Start one; see `Sandbox.login_node`."""
    with ExitStack() as cleanup:
        with states.locked(paths):
            state = states.load(paths)
            if state is None:
                raise SandboxError("The sandbox is not up", hint="Run `dagster-slurm sandbox up`.")
            port = _take_port(paths)
            node = _prepare(paths, state, port, otp=otp, shell=shell, home_files=home_files)
            cleanup.callback(_remove, paths, node)
            _write_files(paths, node, options)
            _start(paths, state, node)
        yield node


def _take_port(paths: SandboxPaths) -> int:
    """Choose a port and make the directory by which other sandboxes know that it is taken."""
    with states.machine_locked():
        ports = startup.free_ports(64, but=startup.reserved_ports(paths))
        port = next(port for port in ports if not _directory(paths, port).exists())
        _directory(paths, port).mkdir(mode=0o755)
    return port


def _directory(paths: SandboxPaths, port: int) -> Path:
    # Below the directory by whose name `down` knows an sshd of its own.
    return paths.ssh / f"login-{port}"


def _prepare(
    paths: SandboxPaths,
    state: State,
    port: int,
    *,
    otp: bool,
    shell: str | None,
    home_files: Mapping[str, str] | None,
) -> LoginNode:
    """Decide what it is to be, and make its directory and its account."""
    directory = _directory(paths, port)
    user, password = state.config.user, _password(paths)
    if shell is not None or home_files is not None:
        user, password = f"login-{port}", secrets.token_urlsafe(18)
        users.make(user, paths.homes / user, shell=shell or "/bin/bash")
        users.set_password(user, password)
        _fill_home(user, home_files or {})
    command = _prepare_codes(directory, paths, user) if otp else None
    return LoginNode(port, user, password, paths.client_key, directory, command)


def _password(paths: SandboxPaths) -> str:
    return paths.password_file.read_text(encoding="utf-8").strip() if paths.password_file.exists() else ""


def _fill_home(user: str, home_files: Mapping[str, str]) -> None:
    entry = pwd.getpwnam(user)
    for name, text in home_files.items():
        path = Path(entry.pw_dir, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in (Path(entry.pw_dir), *Path(entry.pw_dir).rglob("*")):
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _prepare_codes(directory: Path, paths: SandboxPaths, user: str) -> str:
    """Have sshd ask for password and code: PAM finds a service by the name of the program (sshd(8), pam(7))."""
    secret = secrets.token_hex(20)
    users.write_private(directory / "device", f"{secret} 0\n")
    known = directory / "codes"
    users.write_private(known, f"HOTP {user} - {secret}\n")
    service = pam_service(paths, directory.name)
    Path(directory, service.name).symlink_to(daemons.path_of("sshd"))
    service.write_text(files.pam_with_codes(known), encoding="utf-8")
    return shlex.join([sys.executable, "-I", "-S", str(_CODE_PROGRAM), str(directory / "device")])


def pam_service(paths: SandboxPaths, name: str) -> Path:
    """The file of one login node's PAM service; a name of ours, never that of the machine's own sshd."""
    return _PAM_DIRECTORY / f"dagster-slurm-{paths.tag}-{name}"


def _write_files(paths: SandboxPaths, node: LoginNode, options: Sequence[str]) -> None:
    host_key = (paths.ssh / "host_key.pub").read_text(encoding="ascii")
    node.known_hosts.write_text(files.known_hosts([node.port], host_key), encoding="ascii")
    ways = files.ONLY_CODES if node.askpass_command is not None else ()
    site = files.SshdSite(node.directory.name, node.port, strict=False)
    usual = files.sshd_config(site, paths, [node.user], openssh=openssh_version())
    text = files.overridden(files.overridden(usual, ways), options)
    (node.directory / "sshd.conf").write_text(text, encoding="utf-8")


def _start(paths: SandboxPaths, state: State, node: LoginNode) -> None:
    startup.ensure_run_sshd(paths)
    service = node.directory / pam_service(paths, node.directory.name).name
    program = str(service) if service.is_symlink() else daemons.path_of("sshd")
    configured = [program, "-f", str(node.directory / "sshd.conf")]
    run([*configured, "-t"])
    argv = [*configured, "-D", "-E", str(node.log)]
    name = node.directory.name
    daemon = daemons.Daemon(name, argv, node.log, lambda: sends_banner("127.0.0.1", node.port), host="")
    daemons.ensure_started(daemon, paths, state)
    daemons.wait_ready(daemon, paths, state)
    # With `MaxStartups 1`, sshd turns away whoever comes before it has seen the end of that look.
    wait_until(lambda: not processes.descendants(state.processes[name]), f"{name}, alone,", log=node.log)


def _remove(paths: SandboxPaths, node: LoginNode) -> None:
    with states.locked(paths):
        state = states.load(paths)
        # Without one, `down` came first, and took everything with it.
        started = state.processes.pop(node.directory.name, None) if state is not None else None
        if state is not None and started is not None:
            processes.end([started, *processes.descendants(started)])
            states.save(paths, state)
        remove_account(paths, node.user)
        remove_services(paths, node.directory.name)
        shutil.rmtree(node.directory, ignore_errors=True)
        with suppress(FileNotFoundError):
            paths.logs.joinpath(f"{node.directory.name}.out").unlink()


def remove_account(paths: SandboxPaths, user: str) -> None:
    """Remove the account of a login node, with its processes and its home; any other is left alone."""
    entry = users.lookup(user)
    if entry is None or entry not in accounts(paths):
        return
    processes.end(processes.matching(lambda directory: processes.has_user(directory, entry.pw_uid)))
    users.remove(user)
    shutil.rmtree(entry.pw_dir, ignore_errors=True)


def accounts(paths: SandboxPaths) -> list[pwd.struct_passwd]:
    """The accounts of this sandbox's login nodes, by their names."""
    return [entry for entry in users.made(paths) if entry.pw_name.startswith("login-")]


def remove_services(paths: SandboxPaths, name: str = "*") -> None:
    """Remove the PAM service of a login node; by default those of all."""
    for path in _PAM_DIRECTORY.glob(pam_service(paths, name).name):
        path.unlink(missing_ok=True)


# OpenSSH 9.2, LogLevel VERBOSE: "Accepted publickey for USER from ..." and "Starting session: command for USER".
LOGIN = re.compile(r"^Accepted \S+ for ", re.MULTILINE)
SESSION = re.compile(r"^Starting session: ", re.MULTILINE)
# "Failed none" is how a client asks which ways there are.
FAILURE = re.compile(r"^Failed (?!none )\S+ for ", re.MULTILINE)
_BY_TYPE = "Remote Procedure Call statistics by message type"
_BY_USER = "Remote Procedure Call statistics by user"
_COUNTED = re.compile(r"^\s+(\S+)\s*\(\s*\d+\)\s+count:(\d+)", re.MULTILINE)


def count_in_log(log: Path, pattern: re.Pattern[str]) -> int:
    """How often a pattern occurs in a log; 0 if there is none."""
    try:
        return len(pattern.findall(log.read_text(encoding="utf-8", errors="replace")))
    except FileNotFoundError:
        return 0


def rpc_counts(sdiag: str, user: str) -> dict[str, int]:
    """Read the text of `sdiag` (22.05 has no stable JSON).

    Args:
        sdiag: What it printed.
        user: Whose requests are wanted.

    Returns:
        `REQUEST_...` of all users, and as `total` the number of that user's requests.
    """
    by_type = sdiag.partition(_BY_TYPE)[2].partition(_BY_USER)[0]
    by_user = sdiag.partition(_BY_USER)[2]
    counts = {name: int(number) for name, number in _COUNTED.findall(by_type)}
    users = {name: int(number) for name, number in _COUNTED.findall(by_user)}
    return {**counts, "total": users.get(user, 0)}
