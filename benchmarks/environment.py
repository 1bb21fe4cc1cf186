"""An environment from a `uv.lock` or a `pixi.lock`: the first time, again, after a small change, ten runs at once.

    .venv/bin/python benchmarks/environment.py

The uv project is numpy, python-dateutil and dagster-pipes, locked by uv when this starts. Nothing is fetched there.
Beside it stands what a user would do by hand: a virtual environment on this machine, and `tar` through `ssh`, which
works as long as both machines have the same interpreter at the same path. The pixi project has made-up packages of
real format, packed and unpacked by the stand-ins of the tests; for what is sent, the stream of the upload counts.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the stand-ins are those of the tests
import common
from tests.support.pixi import Channel, Conda, PixiProject, environment_for_tools

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments import Activation, pixi
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.environments.pixi import PixiRecipe
from dagster_slurm.environments.uv import UvRecipe
from dagster_slurm.transport import OpenSSHTransport, TreeEntry
from dagster_slurm.transport.content import archive_tree
from dagster_slurm_sandbox import processes as process_table

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


class Counting(OpenSSHTransport):
    """Counts the bytes of all files and trees that are sent."""

    sent_bytes = 0

    def put(self, source: bytes | Path, destination: str, **options: Any) -> None:
        self.sent_bytes += len(source) if isinstance(source, bytes) else source.stat().st_size
        super().put(source, destination, **options)

    def put_tree(self, entries: Iterable[TreeEntry], destination: str, **options: Any) -> None:
        made = list(entries)
        self.sent_bytes += archive_tree(made).size_bytes
        super().put_tree(made, destination, **options)


def measure_pixi(sandbox: common.Sandbox) -> list[list[str]]:
    """Packages of 1 kB, of 2 kB and of 3 MB, and one of 80 MB; each change is one of one package."""
    with trial_on(sandbox) as trial, pixi_project(trial.project.parent) as project:
        transport = Counting(trial.transport.connection)
        packages = {f"part{number}": Conda(f"part{number}", "1.0", 1000) for number in range(200)}
        packages |= {"small": Conda("small", "1.0", 2000), "middle": Conda("middle", "1.0", 3_000_000)}
        packages["large"] = Conda("large", "1.0", 80_000_000)

        def provide() -> None:
            # As in a process that has not read the lock.
            pixi._locked.cache_clear()
            cluster = SlurmCluster(transport, remote_base=trial.base)
            EnvironmentCache(cluster, trial.told.append).provide(PixiRecipe(project.directory))

        rows = []
        for what, changed in (("first time", ""), ("", ""), ("a package of 2 kB", "small"), ("one of 3 MB", "middle")):
            if changed:
                packages[changed] = replace(packages[changed], version="1.1")
            if what:
                project.lock(list(packages.values()))
            before = transport.sent_bytes
            seconds = common.timed(provide)
            sent = transport.sent_bytes - before
            rows.append([what or "again, nothing has changed", f"{seconds:.2f}", f"{sent / 1e3:.1f}"])
        transport.disconnect()
        return rows


def memory_pixi(sandbox: common.Sandbox) -> list[str]:
    """Of an environment of 500 MB: seconds, and the largest process on the login node but the unpacking one, in MB."""
    largest: dict[str, int] = {}
    over = threading.Event()

    def watch() -> None:
        uid = pwd.getpwnam(sandbox.user).pw_uid
        while not over.wait(0.02):
            for process in process_table.matching(lambda path: process_table.has_user(path, uid)):
                with suppress(OSError):
                    said = Path(f"/proc/{process.pid}/status").read_text()
                    argv = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
                    found = re.search(r"VmHWM:\s*(\d+)", said)
                    name = "pixi-unpack" if any(b"pixi-unpack" in word for word in argv[:3]) else argv[0].decode()
                    largest[name] = max(largest.get(name, 0), int(found[1]) if found else 0)

    with trial_on(sandbox) as trial, pixi_project(trial.project.parent) as project:
        project.lock([Conda(f"large{number}", "1.0", 100_000_000) for number in range(5)])
        cluster = SlurmCluster(trial.transport, remote_base=trial.base)
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            recipe = PixiRecipe(project.directory)
            seconds = common.timed(lambda: EnvironmentCache(cluster, trial.told.append).provide(recipe))
        finally:
            over.set()
            thread.join()
    unpacker = largest.pop("pixi-unpack", 0)
    name, size = max(largest.items(), key=lambda each: each[1])
    return [f"{seconds:.1f}", f"{unpacker / 1024:.0f}", f"{size / 1024:.0f} ({name})"]


@contextmanager
def pixi_project(directory: Path) -> Iterator[PixiProject]:
    """A project whose packages a server of this process has."""
    os.environ.update(environment_for_tools(directory))
    channel = Channel(directory / "channel")
    try:
        yield PixiProject(directory / "coast", channel)
    finally:
        channel.close()


def main() -> None:
    """Run and print."""
    with common.running_sandbox() as sandbox:
        with trial_on(sandbox) as trial:
            rows = measure(trial)
        common.print_table("An environment with numpy", ["what", "seconds", "MB sent", "of the first time"], rows)
        seconds, installed = ten_at_once(sandbox)
        row = [[str(AT_ONCE), f"{seconds:.2f}", str(installed)]]
        common.print_table("At once", ["processes", "seconds until all have it", "have installed it"], row)
        rows = measure_pixi(sandbox)
        common.print_table("A pixi environment of 204 packages and 90 MB", ["what", "seconds", "kB sent"], rows)
        columns = ["seconds", "MiB of pixi-unpack", "MiB of the largest other process on the login node"]
        common.print_table("A pixi environment of 500 MB", columns, [memory_pixi(sandbox)])


if __name__ == "__main__":
    main()
