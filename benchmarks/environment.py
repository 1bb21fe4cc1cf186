"""An environment from a `uv.lock`: the first time, again, after a small change, and ten runs at once.

    .venv/bin/python benchmarks/environment.py

The project is numpy, python-dateutil and dagster-pipes, locked by uv when this starts. Nothing is fetched there.
Beside it stands what a user would do by hand: a virtual environment on this machine, and `tar` through `ssh`, which
works as long as both machines have the same interpreter at the same path.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import common

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments import Activation
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.environments.uv import UvRecipe
from dagster_slurm.transport import OpenSSHTransport

PYTHON = "/usr/bin/python3"
BIN = Path(sys.executable).parent
MANIFEST = """
[project]
name = "tides"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["numpy>=1.26", "python-dateutil=={version}", "dagster-pipes"]
"""
AT_ONCE = 10


@dataclass
class Trial:
    """A project, and a directory on the cluster to install it below."""

    project: Path
    transport: OpenSSHTransport
    base: str
    told: list[str] = field(default_factory=list)

    def lock(self, version: str) -> None:
        (self.project / "pyproject.toml").write_text(MANIFEST.format(version=version))
        subprocess.run([BIN / "uv", "lock", "--quiet"], cwd=self.project, check=True)

    def provide(self) -> Activation:
        cluster = SlurmCluster(self.transport, remote_base=self.base)
        return EnvironmentCache(cluster, self.told.append).provide(UvRecipe(self.project, python=PYTHON))

    def sent_bytes(self) -> int:
        """What all parts on the cluster have."""
        there = self.transport.run('cd "$1/env-cache/parts" 2>/dev/null && cat -- * | wc -c', (self.base,)).text
        return int(there or 0)


@contextmanager
def trial_on(sandbox: common.Sandbox) -> Iterator[Trial]:
    with tempfile.TemporaryDirectory(prefix="environment-", dir="/tmp") as local:
        os.environ["DAGSTER_SLURM_CACHE_DIR"] = f"{local}/store"
        connection = replace(common.ssh_of(sandbox).connection(), control_dir=f"{local}/c")
        transport = OpenSSHTransport(connection)
        base = transport.run('mktemp -d "$HOME/environment.XXXXXX"').text.strip()
        project = Path(local, "project")
        project.mkdir()
        try:
            yield Trial(project, transport, base)
        finally:
            transport.run('rm -rf -- "$1"', (base,))
            transport.disconnect()


def by_hand(trial: Trial) -> float:
    """Seconds for a virtual environment of the same packages, made here and copied."""
    environment = trial.project.parent / "venv"
    shutil.rmtree(environment, ignore_errors=True)
    variables = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment)}
    argv = [BIN / "uv", "sync", "--quiet", "--frozen", "--python", PYTHON, "--directory", trial.project]
    connection = trial.transport.connection
    ssh = shlex.join(["ssh", *connection.arguments(), connection.host])
    pipe = f"tar -C {environment} -cf - . | {ssh} 'mkdir {trial.base}/venv && tar -C {trial.base}/venv -xf -'"

    def make_and_copy() -> None:
        subprocess.run(argv, env=variables, check=True)
        subprocess.run(pipe, shell=True, check=True)

    return common.timed(make_and_copy)


def ten_at_once(sandbox: common.Sandbox) -> tuple[float, int]:
    """Seconds until ten processes have the environment, and how many of them have installed it."""
    with trial_on(sandbox) as trial:
        trial.lock("2.9.0.post0")
        program = (
            "import sys\nfrom pathlib import Path\nfrom dagster_slurm.cluster import SlurmCluster\n"
            "from dagster_slurm.environments.cache import EnvironmentCache\n"
            "from dagster_slurm.environments.uv import UvRecipe\n"
            "from dagster_slurm.transport import OpenSSHTransport, SSHConnection\n"
            f"cluster = SlurmCluster(OpenSSHTransport({trial.transport.connection!r}), remote_base={trial.base!r})\n"
            f"EnvironmentCache(cluster, print).provide(UvRecipe(Path({str(trial.project)!r}), python={PYTHON!r}))\n"
        )

        def run(_: int) -> str:
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            return done.stdout

        with ThreadPoolExecutor(AT_ONCE) as pool:
            said: list[str] = []
            seconds = common.timed(lambda: said.extend(pool.map(run, range(AT_ONCE))))
        return seconds, sum("Installed" in each for each in said)


def measure(trial: Trial) -> list[list[str]]:
    trial.lock("2.8.2")
    first = common.timed(trial.provide)
    first_bytes = trial.sent_bytes()
    again = common.median([common.timed(trial.provide) for _ in range(common.REPETITIONS)])
    assert trial.sent_bytes() == first_bytes
    trial.lock("2.9.0.post0")
    changed = common.timed(trial.provide)
    changed_bytes = trial.sent_bytes() - first_bytes
    return [
        ["first time", f"{first:.2f}", f"{first_bytes / 1e6:.2f}", "100 %"],
        ["again, nothing has changed", f"{again:.3f}", "0", "0 %"],
        [
            "after a change of python-dateutil",
            f"{changed:.2f}",
            f"{changed_bytes / 1e6:.2f}",
            f"{100 * changed_bytes / first_bytes:.1f} %",
        ],
        ["by hand: `uv sync` here, `tar` through `ssh`", f"{by_hand(trial):.2f}", "", ""],
    ]


def main() -> None:
    """Run and print."""
    with common.running_sandbox() as sandbox:
        with trial_on(sandbox) as trial:
            rows = measure(trial)
        common.print_table("An environment with numpy", ["what", "seconds", "MB sent", "of the first time"], rows)
        seconds, installed = ten_at_once(sandbox)
        row = [[str(AT_ONCE), f"{seconds:.2f}", str(installed)]]
        common.print_table("At once", ["processes", "seconds until all have it", "have installed it"], row)


if __name__ == "__main__":
    main()
