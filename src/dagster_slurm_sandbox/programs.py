"""Programs of this machine that the sandbox runs, and waiting for what they start."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm.slurm.output import parse_slurm_version

# The names of Debian 11 to testing; each package by a file of it that the sandbox uses.
_PROGRAMS = {
    "slurmctld": ("slurm-wlm", "slurmctld"),
    "slurmd": ("slurm-wlm", "slurmd"),
    "sbatch": ("slurm-wlm", "sbatch"),
    "sacctmgr": ("slurm-wlm", "sacctmgr"),
    "slurmdbd": ("slurmdbd", "slurmdbd"),
    "munged": ("munge", "munged"),
    "sshd": ("openssh-server", "sshd"),
    "ssh-keygen": ("openssh-client", "ssh-keygen"),
    "mariadbd": ("mariadb-server", "mariadbd"),
    "mariadb-install-db": ("mariadb-server", "mariadb-install-db"),
    "ip": ("iproute2", "ip"),
    "nsenter": ("util-linux", "nsenter"),
    "mount": ("mount", "mount"),
    "useradd": ("passwd", "useradd"),
}
# What only some login nodes of tests need; see `Sandbox.login_node`.
_TRIAL_PROGRAMS = {"tcsh": ("tcsh", "tcsh"), "fish": ("fish", "fish")}
_CODES_PACKAGE = "libpam-oath"
_CODES_PATTERNS = ("security/pam_oath.so", "*-linux-gnu*/security/pam_oath.so")
# Where some tests keep Dagster's records; its programs are on no PATH.
_RECORDS_PACKAGE = "postgresql"
_RECORDS_PATTERNS = ("postgresql/*/bin/postgres",)
# What only some launchers need. Slurm's plugin loads the bare libpmix.so, and its own package has one with a number.
# Nodes that got it under a running slurmd have wedged (22.05.8).
_PMIX_PACKAGE = "libpmix-dev"
_PMIX_PATTERNS = ("*-linux-gnu*/libpmix.so", "*-linux-gnu*/pmix*/lib/libpmix.so")
_JAVA = ("default-jre-headless", "java")
# What only counts system calls.
_STRACE = ("strace", "strace")
# In which tests look at Dagster's UI.
_BROWSER = ("chromium", "chromium")
_PLUGIN_PACKAGE = "slurm-wlm-mysql-plugin"
_PLUGIN_PATTERNS = tuple(f"{top}slurm*/accounting_storage_mysql.so" for top in ("", "*-linux-gnu*/"))
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POLICY_FILE = Path("/usr/sbin/policy-rc.d")


def system_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A small environment for the sandbox's daemons and tools; nothing of the caller's leaks in."""
    return {"PATH": _SEARCH_PATH, "LANG": "C.UTF-8", "HOME": "/root", **(extra or {})}


def find(program: str) -> str | None:
    """The path of a program, /usr/sbin included, or None."""
    return shutil.which(program, path=_SEARCH_PATH)


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 60,
    accept: Sequence[int] = (0,),
) -> str:
    """Run a program to its end and return its stdout.

    Raises:
        SandboxError: It is not there, took too long, or ended with a status that is not in `accept`.
    """
    command = shlex.join(argv)
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            text=True,
            capture_output=True,
            env=system_environment(environment),
            timeout=timeout_seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise SandboxError(
            f"The program {argv[0]} is missing",
            hint="Run `dagster-slurm sandbox up --install`.",
            command=command,
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"No end after {timeout_seconds} s", hint="See the logs.", command=command) from error
    if done.returncode not in accept:
        said = (done.stderr or done.stdout).strip()
        raise SandboxError(f"Ended with status {done.returncode}: {said}", command=command)
    return done.stdout


@lru_cache
def slurm_version() -> tuple[int, int]:
    """Major and minor number of the Slurm that is installed on this machine.

    Raises:
        SandboxError: There is none, or it does not tell.
    """
    return parse_slurm_version(run(["slurmctld", "-V"]))


@lru_cache
def openssh_version() -> tuple[int, int]:
    """Major and minor number of the OpenSSH that is installed on this machine.

    Raises:
        SandboxError: It is missing, or does not tell.
    """
    # sshd(8) has no option for it before 9.2, and ssh says it on stderr; they come from one source.
    said = run(["sh", "-c", "ssh -V 2>&1"])
    match = re.match(r"OpenSSH_(\d+)\.(\d+)", said)
    if match is None:
        raise SandboxError(f"`ssh -V` does not tell the version of OpenSSH: {said.strip()!r}")
    return int(match[1]), int(match[2])


def missing_packages(
    *, trials: bool = False, launchers: bool = False, records: bool = False, browser: bool = False
) -> tuple[str, ...]:
    """The Debian packages that have to be installed before a sandbox can be brought up.

    Args:
        trials: Also those that only some login nodes of tests need.
        launchers: Also what `srun --mpi=pmix` and Spark need, and what counts system calls.
        records: Also the database in which some tests keep Dagster's records.
        browser: Also a browser, for tests of what a user sees.
    """
    wanted = [*_PROGRAMS.values(), *(_TRIAL_PROGRAMS.values() if trials else ())]
    wanted += [_JAVA, _STRACE] if launchers else []
    wanted += [_BROWSER] if browser else []
    missing = {package for package, program in wanted if find(program) is None}
    if not _is_in_lib(_PLUGIN_PATTERNS):
        missing.add(_PLUGIN_PACKAGE)
    if trials and not _is_in_lib(_CODES_PATTERNS):
        missing.add(_CODES_PACKAGE)
    if records and not _is_in_lib(_RECORDS_PATTERNS):
        missing.add(_RECORDS_PACKAGE)
    if launchers and not _is_in_lib(_PMIX_PATTERNS):
        missing.add(_PMIX_PACKAGE)
    return tuple(sorted(missing))


def _is_in_lib(patterns: Sequence[str]) -> bool:
    return any(any(Path("/usr/lib").glob(pattern)) for pattern in patterns)


def check_machine() -> None:
    """Tell whether a sandbox can run here at all.

    Raises:
        SandboxError: Not Linux, not Debian-like, or not root.
    """
    if sys.platform != "linux":
        raise SandboxError("The sandbox runs on Linux only", hint="Use a Debian machine, virtual machine or container.")
    if os.geteuid() != 0:
        raise SandboxError("The sandbox must be run as root", hint="Run it with sudo, on a machine for trying.")
    if not Path("/etc/debian_version").exists() and missing_packages():
        raise SandboxError(
            "This is not Debian, and programs are missing: " + ", ".join(missing_programs()),
            hint="Install Slurm with slurmdbd, MariaDB, munge and OpenSSH's server, or use Debian.",
        )


def missing_programs() -> tuple[str, ...]:
    """The programs that are missing."""
    return tuple(program for _, program in _PROGRAMS.values() if find(program) is None)


def require_packages(*, trials: bool = False) -> None:
    """Refuse when packages are missing, naming them all.

    Raises:
        SandboxError: Packages are missing.
    """
    missing = missing_packages(trials=trials)
    if missing:
        line = "apt-get install --no-install-recommends " + " ".join(missing)
        raise SandboxError(
            f"Debian packages are missing: {' '.join(missing)}",
            hint=f"Run `dagster-slurm sandbox up --install`, or: {line}",
        )


def install_packages(
    *, trials: bool = False, launchers: bool = False, records: bool = False, browser: bool = False
) -> tuple[str, ...]:
    """Install the missing packages with apt-get, keeping their services from starting.

    Args:
        trials: Also those that only some login nodes of tests need.
        launchers: Also what `srun --mpi=pmix` and Spark need.
        records: Also the database in which some tests keep Dagster's records.
        browser: Also a browser, for tests of what a user sees.

    Returns:
        The packages that were missing.

    Raises:
        SandboxError: Not root, or apt-get failed.
    """
    check_machine()
    missing = missing_packages(trials=trials, launchers=launchers, records=records, browser=browser)
    if missing:
        apt = {"DEBIAN_FRONTEND": "noninteractive"}
        with _services_kept_from_starting():
            run(["apt-get", "update"], environment=apt, timeout_seconds=600)
            offered = [package for package in missing if package != _PLUGIN_PACKAGE or _is_offered(package)]
            install = ["apt-get", "install", "-y", "--no-install-recommends", *offered]
            run(install, environment=apt, timeout_seconds=1800)
        require_packages(trials=trials)
    return missing


def _is_offered(package: str) -> bool:
    # In Debian 11 the plugin is in a package that slurm-wlm brings, and has none of its own.
    return bool(run(["apt-cache", "--quiet", "show", package], accept=(0, 100)))


@contextmanager
def _services_kept_from_starting() -> Iterator[None]:
    """Deny service starts while packages are installed (invoke-rc.d(8): policy-rc.d, status 101)."""
    if POLICY_FILE.exists():
        yield
        return
    POLICY_FILE.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    POLICY_FILE.chmod(0o755)
    try:
        yield
    finally:
        POLICY_FILE.unlink(missing_ok=True)


def wait_until(
    ready: Callable[[], bool],
    what: str,
    *,
    timeout_seconds: float = 60,
    log: Path | None = None,
    broken: Callable[[], bool] = lambda: False,
    pause_seconds: float = 0.03,
) -> None:
    """Wait until `ready()` is true.

    Args:
        ready: Looks once.
        what: What is waited for, as the subject of "is not ready".
        timeout_seconds: For how long to look.
        log: A log whose end belongs into the error.
        broken: Tells that there is no use in waiting on.
        pause_seconds: Pause between two looks.

    Raises:
        SandboxError: Not true in time, or broken.
    """
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        if broken() or time.monotonic() > deadline:
            how = "has ended" if broken() else f"is not ready after {timeout_seconds:.0f} s"
            hint = f"The end of {log}:\n{tail(log)}" if log else "See `dagster-slurm sandbox status`."
            raise SandboxError(f"{what} {how}", hint=hint)
        time.sleep(pause_seconds)


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a file; empty if there is none."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def accepts_connections(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def sends_banner(host: str, port: int, *, timeout_seconds: float = 2.0) -> bool:
    """Whether an SSH server answers there; one that is stopped accepts connections and says nothing."""
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds) as connection:
            connection.settimeout(timeout_seconds)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
