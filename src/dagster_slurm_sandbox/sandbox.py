"""The sandbox cluster as an object. For trying and testing; not for production."""

from __future__ import annotations

import pwd
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import daemons, faults, processes, programs, startup, teardown, users
from dagster_slurm_sandbox import login_node as login_nodes
from dagster_slurm_sandbox import state as states
from dagster_slurm_sandbox.config import DEFAULT_NAME, SandboxConfig, SandboxPaths, base_dir, paths_of
from dagster_slurm_sandbox.login_node import LoginNode
from dagster_slurm_sandbox.state import State
from dagster_slurm_sandbox.users import small_filesystem, unwritable_directory


@dataclass(frozen=True)
class SandboxStatus:
    """How a sandbox is.

    Args:
        up: Whether there is one.
        ready: Whether all daemons run and all nodes are up.
        daemons: By name, `running`, `stopped` (SIGSTOP) or `dead`.
        nodes: By name, the state the controller sees; empty if it does not answer.
        memory_enforced: Whether jobs are held to their memory.
        memory_reason: Why not, if not.
        state_dir: Where its files lie.
    """

    up: bool
    ready: bool
    daemons: Mapping[str, str]
    nodes: Mapping[str, str]
    memory_enforced: bool
    memory_reason: str
    state_dir: Path


def names() -> list[str]:
    """The names of the sandboxes that were brought up here, whatever is left of them."""
    here = base_dir()
    found = here.iterdir() if here.is_dir() else ()
    return sorted(path.name for path in found if SandboxPaths(path).state_file.exists())


class Sandbox:
    """A real Slurm cluster on this machine, for trying and testing; not for production.

    Making the object does nothing; `up` brings the cluster up, or finds the one that is.

    Args:
        config: What it is to look like. A sandbox that is up keeps the configuration it was brought up with.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self._asked = config or SandboxConfig(name=DEFAULT_NAME)
        self.paths: SandboxPaths = paths_of(self._asked.name)

    @property
    def config(self) -> SandboxConfig:
        """The configuration it is up with, or would be brought up with."""
        state = states.load(self.paths)
        return state.config if state else self._asked

    @property
    def user(self) -> str:
        """The Unix user to log in as."""
        return self.config.user

    @property
    def home(self) -> Path:
        """The user's home directory."""
        return Path(pwd.getpwnam(self.user).pw_dir)

    def up(self, *, quiet: bool = False) -> None:
        """Bring the cluster up, or bring back what died of it; return when it is ready.

        Args:
            quiet: Do not say on stderr what is being done.

        Raises:
            SandboxError: It cannot run here, packages are missing, a Slurm is in use here, or a part fails.
        """
        programs.check_machine()
        programs.require_packages()
        progress = startup.Progress(quiet=quiet)
        with states.locked(self.paths):
            state = states.load(self.paths)
            if state is None:
                processes.refuse_beside_slurm()
                state = startup.make_room(self._asked, self.paths)
            faults.mend_everything(self.paths, state)
            startup.raise_cluster(self.paths, state, progress)
        startup.log_in(self.paths, state)
        progress(f"{state.config.user} can log in: ready")

    def down(self) -> None:
        """Take the cluster down and leave nothing behind; nothing happens if there is none.

        Raises:
            SandboxError: Not root, or a process or mount cannot be removed.
        """
        programs.check_machine()
        with states.locked(self.paths):
            teardown.remove_all(self.paths, states.remains(self.paths))

    @contextmanager
    def running(self) -> Iterator[Sandbox]:
        """It is up within the block; one that was up already is left up after it."""
        was_up = self.is_up()
        try:
            self.up()
            yield self
        finally:
            if not was_up:
                self.down()

    def is_up(self) -> bool:
        """Whether it was brought up and not taken down (its parts may be broken)."""
        return self.paths.state_file.exists()

    def status(self) -> SandboxStatus:
        """How it is."""
        state = states.load(self.paths)
        if state is None:
            return SandboxStatus(False, False, {}, {}, False, "", self.paths.state_dir)
        names = daemons.all_daemons(self.paths, state)
        conditions = {name: faults.condition(state, name) for name in names}
        asked = conditions[daemons.SLURMCTLD] == conditions[daemons.MUNGED] == "running"
        found = self._nodes() if asked else {}
        ready = set(conditions.values()) == {"running"} and len(found) == state.config.nodes
        ready = ready and all(each in daemons.READY for each in found.values())
        return SandboxStatus(True, ready, conditions, found, state.cgroups, state.memory_reason, self.paths.state_dir)

    def env(self, *, strict: bool = False, user: str | None = None) -> dict[str, str]:
        """The environment variables by which dagster-slurm reaches the cluster.

        Args:
            strict: For the strict login node: password only, one channel a connection.
            user: One of the further users, with the key; the first user if not given.

        Raises:
            SandboxError: It is not up, or the password is not known since the user was there before.
        """
        state = self._required()
        if strict and user not in (None, state.config.user):
            raise SandboxError("Only the first user has a password", hint="Log in with the key, without `strict`.")
        variables = {
            "SLURM_EDGE_NODE_HOST": "127.0.0.1",
            "SLURM_EDGE_NODE_PORT": str(state.strict_ssh_port if strict else state.ssh_port),
            "SLURM_EDGE_NODE_USER": user or state.config.user,
            "SLURM_EDGE_NODE_KNOWN_HOSTS_FILE": str(self.paths.known_hosts),
            "SLURM_PARTITION": "compute",
        }
        if strict:
            return {**variables, "SLURM_EDGE_NODE_PASSWORD": self.password()}
        return {**variables, "SLURM_EDGE_NODE_KEY_PATH": str(self.paths.client_key)}

    def password(self) -> str:
        """The user's password.

        Raises:
            SandboxError: It is not known, since the user was there before the sandbox.
        """
        try:
            return self.paths.password_file.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            raise SandboxError(
                f"The password of {self.user} is not known: the user was there before the sandbox",
                hint="Bring the sandbox up with another `--user`.",
            ) from None

    def slurm_env(self) -> dict[str, str]:
        """What Slurm's commands need to find this cluster when run on this machine."""
        return {"SLURM_CONF": str(self.paths.slurm_conf)}

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        input: str | None = None,  # noqa: A002 - as in subprocess.run
        timeout_seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine as the cluster's user, in the home directory, for tests.

        Args:
            argv: The command.
            user: As whom, if not as the cluster's user.
            input: What it reads on stdin.
            timeout_seconds: For how long it may run.

        Raises:
            subprocess.TimeoutExpired: It ran longer.
        """
        entry = pwd.getpwnam(user or self.user)
        environment = {
            **self.slurm_env(),
            "HOME": entry.pw_dir,
            "USER": entry.pw_name,
            "LOGNAME": entry.pw_name,
        }
        identity = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
        # The shell looks the program up as the user; setpriv itself still finds it with root's capabilities.
        return subprocess.run(
            ["setpriv", *identity, "--", "sh", "-c", 'exec "$@"', "sh", *argv],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            cwd=entry.pw_dir,
            env=programs.system_environment(environment),
            timeout=timeout_seconds,
            check=False,
        )

    def break_(self, part: str, *, hang: bool = False) -> None:
        """Break a part of the cluster on purpose.

        Args:
            part: One of `parts()`: `sshd`, `strict-sshd`, `slurmctld`, `slurmdbd`, `munged`, `mariadb`,
                `slurmd:n1` (the daemon; job steps live on), `node:n1` (power loss: everything on the node
                ends), `network:n1` (the cable is pulled).
            hang: Stop it (SIGSTOP) where it stands instead of ending it: it is there and does not answer.

        Raises:
            SandboxError: There is no such part, or it cannot hang.
        """
        with states.locked(self.paths):
            faults.break_part(self.paths, self._required(), part, hang=hang)

    def mend(self, part: str = "all") -> None:
        """Bring a part back and return when it serves; `all` for everything.

        Raises:
            SandboxError: There is no such part, or it does not come back.
        """
        with states.locked(self.paths):
            faults.mend_part(self.paths, self._required(), part)

    @contextmanager
    def broken(self, part: str, *, hang: bool = False) -> Iterator[None]:
        """A part is broken within the block, and mended after it."""
        self.break_(part, hang=hang)
        try:
            yield
        finally:
            self.mend(part)

    def parts(self) -> tuple[str, ...]:
        """What can be broken and mended."""
        return faults.parts(self.config)

    def logins(self, *, strict: bool = False) -> int:
        """The number of logins so far, from sshd's log."""
        return login_nodes.count_in_log(self._sshd_log(strict=strict), login_nodes.LOGIN)

    def sessions_opened(self, *, strict: bool = False) -> int:
        """The number of session channels opened so far (command, shell or subsystem), from sshd's log."""
        return login_nodes.count_in_log(self._sshd_log(strict=strict), login_nodes.SESSION)

    @contextmanager
    def login_node(
        self,
        *,
        options: Sequence[str] = (),
        otp: bool = False,
        shell: str | None = None,
        home_files: Mapping[str, str] | None = None,
    ) -> Iterator[LoginNode]:
        """A further login node, with an sshd of its own, gone with the sessions it serves after the block.

        It takes key and password of the cluster's user unless asked for something else.

        Args:
            options: Lines of sshd_config, in place of those with the same keyword: `MaxSessions 1`,
                `Subsystem sftp /bin/false`. Variables of `SetEnv` are added.
            otp: Ask for the password and then for a one-time code (HOTP, by pam_oath), and take nothing else.
            shell: The login shell. The node has a user of its own then, made and removed with it: no account that
                others use is changed. It can log in, and has no account in Slurm.
            home_files: Files of that user's home, by name, such as `.bashrc`.

        Raises:
            SandboxError: The sandbox is not up, a package is missing, or sshd does not take the options.
        """
        if otp or shell is not None:
            programs.require_packages(trials=True)
        with login_nodes.login_node(self.paths, options=options, otp=otp, shell=shell, home_files=home_files) as node:
            yield node

    def rpc_counts(self, user: str | None = None) -> dict[str, int]:
        """What the controller was asked since it was started, from `sdiag`.

        `sdiag` counts by message type and by user, not by both: the counts by type are those of all users, of
        the nodes' daemons and of this question; only `total` is the user's alone.

        Args:
            user: Whose `total`; if not given, the cluster's user's.

        Returns:
            The numbers of calls by message type (`REQUEST_...`), and `total`.

        Raises:
            SandboxError: The controller does not answer.
        """
        text = programs.run(["sdiag"], environment=self.slurm_env())
        return login_nodes.rpc_counts(text, user or self.user)

    def create_environment(self, name: str, requirements: Sequence[str]) -> str:
        """Make a Python virtual environment that the cluster's user can execute.

        Args:
            name: Its name.
            requirements: What pip is to install into it, as on its command line.

        Returns:
            Its path. One of the same name and requirements is used again.

        Raises:
            SandboxError: No suitable interpreter, or pip failed.
        """
        self._required()
        with states.locked(self.paths):
            return users.create_environment(self, name, tuple(requirements))

    def environment(self, name: str) -> str | None:
        """The path of an environment that `create_environment` has made; None where it has not."""
        return users.environment_found(self, name)

    @contextmanager
    def small_filesystem(self, size_mib: int) -> Iterator[Path]:
        """A small file system below the home, the user's own, gone after the block.

        Args:
            size_mib: Its size, in MiB.
        """
        self._required()
        with small_filesystem(self.home, self.user, size_mib) as path:
            yield path

    @contextmanager
    def unwritable_directory(self) -> Iterator[Path]:
        """A directory below the home that the user cannot write, gone after the block."""
        self._required()
        with unwritable_directory(self.home) as path:
            yield path

    def _sshd_log(self, *, strict: bool) -> Path:
        return self.paths.log(daemons.STRICT_SSHD if strict else daemons.SSHD)

    def _nodes(self) -> dict[str, str]:
        try:
            return daemons.node_states(self.paths)
        except SandboxError:
            # A controller that does not answer has no opinion on its nodes; the status says so.
            return {}

    def _required(self) -> State:
        state = states.load(self.paths)
        if state is None:
            raise SandboxError("The sandbox is not up", hint="Run `dagster-slurm sandbox up`.")
        return state
