"""The Unix users to log in as: account, key and password."""

from __future__ import annotations

import os
import pwd
import secrets
from pathlib import Path

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
