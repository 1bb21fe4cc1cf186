"""What is checked: the settings that a code location would read, and what the command line says on top."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_slurm.doctor.finding import Finding, fine, wrong
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.transport import SSHConnection
from dagster_slurm.variables import DEFAULT_REMOTE_BASE

if TYPE_CHECKING:
    from dagster_slurm.resources.slurm import SlurmResource

STEP = "settings"


@dataclass(frozen=True)
class Asked:
    """What the command line says.

    Args:
        prefix: What the environment variables of the login node begin with.
        local: Run Slurm's commands on this machine.
        remote_base: In place of SLURM_REMOTE_BASE.
        options: Options of sbatch, in place of those of the environment variables.
        env_path: The environment on the cluster.
        fresh_login: Log in anew instead of using a shared connection that is open.
        job: Submit a small job.
        job_patience_seconds: How long that job may take.
    """

    prefix: str = "SLURM_EDGE_NODE_"
    local: bool = False
    remote_base: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    env_path: str | None = None
    fresh_login: bool = False
    job: bool = False
    job_patience_seconds: float = 300.0


@dataclass(frozen=True)
class Settings:
    """What is checked.

    Args:
        connection: The way to the login node; None for this machine.
        request: What is asked of Slurm for a job.
        remote_base: Directory for the runs, `~` for the home directory.
    """

    connection: SSHConnection | None
    request: JobRequest
    remote_base: str


def read_settings(asked: Asked) -> Settings:
    """Read the settings as `SlurmResource.from_env` does.

    Raises:
        ConfigurationError: One is missing or cannot be read.
        InvalidRequestError: One cannot be asked of Slurm.
    """
    # Imported late: these know Dagster, and `--help` should not wait for it.
    from dagster_slurm.resources.slurm import SlurmResource, SSHConnectionResource  # noqa: PLC0415

    ssh = None if asked.local else SSHConnectionResource.from_env(asked.prefix)
    slurm = SlurmResource.from_env_slurm(ssh)
    return _settings(slurm, asked)


def _settings(slurm: SlurmResource, asked: Asked) -> Settings:
    return Settings(
        connection=slurm.ssh.connection() if slurm.ssh else None,
        request=merge(slurm.default_options(), asked.options),
        remote_base=asked.remote_base or slurm.remote_base or DEFAULT_REMOTE_BASE,
    )


def judge_settings(settings: Settings) -> Finding:
    """What will be used; wrong if a file that it names is not there or not usable."""
    connection = settings.connection
    if connection is None:
        return fine(STEP, f"Slurm's commands on this machine, runs in {settings.remote_base}")
    if shutil.which("ssh") is None:
        return wrong(STEP, "The program `ssh` is not installed", "Install OpenSSH's client.")
    for hop in connection.hops():
        problem = _key_problem(hop.key_path)
        if problem:
            return wrong(STEP, *problem)
    way = " through ".join(hop.label for hop in connection.hops())
    return fine(STEP, f"{way}, runs in {settings.remote_base}")


def _key_problem(key_path: str | None) -> tuple[str, str] | None:
    if key_path is None:
        return None
    path = Path(key_path).expanduser()
    if not path.is_file():
        return f"The key file {path} does not exist", "Correct the KEY_PATH, or make a key with `ssh-keygen`."
    if path.stat().st_mode & 0o077:
        return f"The key file {path} can be read by others, and ssh ignores it", f"Run `chmod 600 {path}`."
    return None
