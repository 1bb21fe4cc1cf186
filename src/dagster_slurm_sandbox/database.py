"""The accounting's database and what stands in it: cluster, account, associations."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox.config import MARKER_VARIABLE, SandboxPaths
from dagster_slurm_sandbox.daemons import SLURMDBD, database_options
from dagster_slurm_sandbox.files import CLUSTER_NAME, DATABASE_NAME
from dagster_slurm_sandbox.programs import run
from dagster_slurm_sandbox.state import State


def ensure_data(paths: SandboxPaths) -> None:
    """Make an empty database, unless there is one. Half a one, of a killed `up`, is thrown away."""
    paths.database_temporary_dir.mkdir(exist_ok=True)
    complete = paths.database_dir.parent / "complete"
    if complete.exists():
        return
    shutil.rmtree(paths.database_dir, ignore_errors=True)
    # root's way in is the Unix socket: no password, and nobody but root.
    run(
        [
            "mariadb-install-db",
            *database_options(paths),
            "--auth-root-authentication-method=socket",
            "--skip-test-db",
            "--skip-name-resolve",
        ],
        environment={MARKER_VARIABLE: str(paths.state_dir)},
    )
    complete.touch()


def ensure_database(paths: SandboxPaths) -> None:
    """Make the accounting's database. slurmdbd would, but not with MariaDB 11.8's library.

    There the failed attempt to use a database that is not there spoils the connection, and slurmdbd 24.11.5 ends
    ("Number of columns in result (=1) set execeeds maxmimum allowed", tried).
    """
    statement = f"CREATE DATABASE IF NOT EXISTS {DATABASE_NAME}"
    run(["mariadb", "--no-defaults", f"--socket={paths.database_socket}", f"--execute={statement}"])


def ensure_associations(paths: SandboxPaths, state: State, *, timeout_seconds: float = 30) -> None:
    """Add cluster, account and users to the accounting, as far as they are missing.

    Raises:
        SandboxError: The accounting does not take them.
    """
    account, users = state.config.account, (*state.config.all_users, "root")
    wanted = {f"{CLUSTER_NAME}|{account}|{each}" for each in users}
    deadline, said = time.monotonic() + timeout_seconds, ""
    while not wanted <= _associations(paths):
        if time.monotonic() > deadline:
            raise SandboxError(
                f"The accounting does not take the users {', '.join(users)} of account {account}: {said}",
                hint=f"See {paths.log(SLURMDBD)}.",
            )
        said = _add_associations(paths, account, users)


def _associations(paths: SandboxPaths) -> set[str]:
    query = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", "format=cluster,account,user"]
    return set(run(query, environment={"SLURM_CONF": str(paths.slurm_conf)}).splitlines())


def _add_associations(paths: SandboxPaths, account: str, users: Sequence[str]) -> str:
    commands = [
        f"add cluster {CLUSTER_NAME}",
        f"add account {account} Description=sandbox Organization=sandbox",
        *(f"add user {user} Account={account}" for user in users),
    ]
    # One process for all of them. What is there already makes it end with 1, and the rest is done all the same; so does
    # a slurmdbd that is still busy with its tables, and then the rest is not done (22.05.8, three coming up at once).
    environment = {"SLURM_CONF": str(paths.slurm_conf)}
    return run(
        ["sacctmgr", "--immediate"], stdin="\n".join(commands) + "\nquit\n", environment=environment, accept=(0, 1)
    )
