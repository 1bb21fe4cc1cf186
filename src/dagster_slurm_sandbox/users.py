"""Users of the cluster, and what they get: directories for tests of storage that fails, and Python environments."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox.config import SandboxPaths
from dagster_slurm_sandbox.programs import run
from dagster_slurm_sandbox.state import State, save


def lookup(name: str) -> pwd.struct_passwd | None:
    """The user's entry in the password database, or None."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def ensure(paths: SandboxPaths, state: State) -> None:
    """Make the users, as far as there are none, the first with a random password; one that exists is left as it is."""
    name = state.config.user
    if lookup(name) is None:
        # Noted first: a user that was made must be removed, also if we are killed in between.
        state.user_created = True
        save(paths, state)
        make(name, paths.homes / name)
    if state.user_created:
        _ensure_home(name, paths.homes / name)
        _ensure_password(paths, name)
    for further in state.config.users:
        if lookup(further) is None:
            make(further, paths.homes / further)


def made(paths: SandboxPaths) -> list[pwd.struct_passwd]:
    """The users that this sandbox has made: their homes are its own."""
    return [entry for entry in pwd.getpwall() if Path(entry.pw_dir).parent == paths.homes]


def make(name: str, home: Path, *, shell: str = "/bin/bash") -> None:
    """Make a user with an empty home."""
    run(["useradd", "--no-create-home", "--home-dir", str(home), "--shell", shell, name])
    _ensure_home(name, home)


def set_password(name: str, password: str) -> None:
    """Set a user's password; it is no argument, which others could see."""
    run(["chpasswd"], stdin=f"{name}:{password}\n")


def _ensure_home(name: str, home: Path) -> None:
    entry = pwd.getpwnam(name)
    home.mkdir(mode=0o755, exist_ok=True)
    os.chown(home, entry.pw_uid, entry.pw_gid)


def _ensure_password(paths: SandboxPaths, name: str) -> None:
    if not paths.password_file.exists():
        password = secrets.token_urlsafe(18)
        set_password(name, password)
        write_private(paths.password_file, password + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, at no moment anyone else."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def ensure_keys(paths: SandboxPaths) -> str:
    """Make host key and client key if they are missing.

    Returns:
        The host's public key.
    """
    for path in (paths.ssh / "host_key", paths.client_key):
        if not path.with_suffix(".pub").exists():
            path.unlink(missing_ok=True)
            run(
                [
                    "ssh-keygen",
                    "-q",
                    "-t",
                    "ed25519",
                    "-N",
                    "",
                    "-C",
                    "dagster-slurm-sandbox",
                    "-f",
                    str(path),
                ]
            )
    public = paths.client_key.with_suffix(".pub").read_text(encoding="ascii")
    (paths.ssh / "authorized_keys").write_text(public, encoding="ascii")
    return (paths.ssh / "host_key.pub").read_text(encoding="ascii")


def remove(name: str) -> None:
    """Remove a user that the sandbox made, with its group."""
    if lookup(name) is not None:
        # Status 12: the mail spool could not be removed; there never was one.
        run(["userdel", "--force", name], accept=(0, 12))


@contextmanager
def small_filesystem(home: Path, user: str, size_mib: int) -> Iterator[Path]:
    """Mount a tmpfs below the home, owned by the user, and unmount it after the block.

    Args:
        home: The user's home; in a sandbox it passes mounts on to the nodes.
        user: Whose it is.
        size_mib: Its size, in MiB.
    """
    entry = pwd.getpwnam(user)
    path = Path(tempfile.mkdtemp(prefix="small-", dir=home))
    path.chmod(0o755)
    options = f"size={size_mib}m,mode=0755,uid={entry.pw_uid},gid={entry.pw_gid}"
    run(["mount", "-t", "tmpfs", "-o", options, "dagster-slurm-sandbox", str(path)])
    try:
        yield path
    finally:
        # Lazily: a job of a failed test may still stand in it.
        run(["umount", "--lazy", str(path)])
        path.rmdir()


@contextmanager
def unwritable_directory(home: Path) -> Iterator[Path]:
    """A directory below the home that the user can read and not write, gone after the block."""
    path = Path(tempfile.mkdtemp(prefix="unwritable-", dir=home))
    path.chmod(0o755)
    try:
        yield path
    finally:
        path.rmdir()


_MARKER = ".complete.json"
_VERSIONS = ("3.14", "3.13", "3.12", "3.11", "3.10")


class Cluster(Protocol):
    """What is needed of a sandbox."""

    paths: SandboxPaths

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command as the cluster's user."""


def candidates() -> Iterator[Path]:
    """Interpreters that may do, the running one's base first."""
    yield Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for directory in ("/usr/local/bin", "/usr/bin"):
        for version in _VERSIONS:
            yield Path(directory) / f"python{version}"


def usable_interpreter(cluster: Cluster) -> Path:
    """An interpreter that the cluster's user can execute: a Python below /root, say, is not.

    Raises:
        SandboxError: There is none.
    """
    for path in candidates():
        if path.exists() and cluster.run([str(path), "-c", "import ssl, venv"]).returncode == 0:
            return path
    raise SandboxError(
        "There is no Python 3.10 to 3.14 that the cluster's user can execute",
        hint="Install Debian's python3.",
    )


def create_environment(cluster: Cluster, name: str, requirements: tuple[str, ...]) -> str:
    """Make an environment, or find the one made before for the same requirements.

    Returns:
        Its path.

    Raises:
        SandboxError: No interpreter, or the installer failed.
    """
    directory = cluster.paths.environments / name
    wanted = json.dumps(sorted(requirements))
    marker = directory / _MARKER
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return str(directory)
    # Built in place, since scripts in an environment carry its path; the marker tells a whole one from half a one.
    shutil.rmtree(directory, ignore_errors=True)
    _run_as_caller([str(usable_interpreter(cluster)), "-m", "venv", "--without-pip", str(directory)])
    if requirements:
        python = str(directory / "bin" / "python")
        _run_as_caller([*_installer(python), "--quiet", *requirements])
    marker.write_text(wanted, encoding="utf-8")
    return str(directory)


def _installer(python: str) -> list[str]:
    """What installs packages for that Python: pip, or uv in an environment that uv has made and that has no pip."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip", "--python", python, "install"]
    return [sys.executable, "-m", "uv", "pip", "install", "--python", python]


def environment_found(cluster: Cluster, name: str) -> str | None:
    """The path of one that is whole."""
    directory = cluster.paths.environments / name
    return str(directory) if (directory / _MARKER).exists() else None


def _run_as_caller(argv: list[str]) -> None:
    # With the caller's environment: it may name a package index or a directory of wheels.
    done = subprocess.run(argv, capture_output=True, text=True, check=False, umask=0o022)
    if done.returncode != 0:
        raise SandboxError(f"Ended with status {done.returncode}: {done.stderr.strip()}", command=" ".join(argv))
