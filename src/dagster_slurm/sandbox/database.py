"""The accounting's database and what stands in it: cluster, account, associations."""

from __future__ import annotations

import shutil

from dagster_slurm.sandbox.config import MARKER_VARIABLE, SandboxPaths
from dagster_slurm.sandbox.daemons import database_options
from dagster_slurm.sandbox.files import CLUSTER_NAME
from dagster_slurm.sandbox.programs import run
from dagster_slurm.sandbox.state import State


def ensure_data(paths: SandboxPaths) -> None:
    """Make an empty database, unless there is one. Half a one, of a killed `up`, is thrown away."""
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


def ensure_associations(paths: SandboxPaths, state: State) -> None:
    """Add cluster, account and users to the accounting, as far as they are missing."""
    slurm = {"SLURM_CONF": str(paths.slurm_conf)}
    query = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", "format=cluster,account,user"]
    present = set(run(query, environment=slurm).splitlines())
    account, user = state.config.account, state.config.user
    if {f"{CLUSTER_NAME}|{account}|{each}" for each in (user, "root")} <= present:
        return
    commands = [
        f"add cluster {CLUSTER_NAME}",
        f"add account {account} Description=sandbox Organization=sandbox",
        f"add user {user} Account={account}",
        f"add user root Account={account}",
    ]
    # One process for all of them. What is there already makes it end with 1, and the rest is done all the same.
    run(["sacctmgr", "--immediate"], stdin="\n".join(commands) + "\nquit\n", environment=slurm, accept=(0, 1))
