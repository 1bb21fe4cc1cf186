"""Environments on a cluster's file system: installed once, whole or not at all, whatever dies."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments import Activation, Needs, Pack, Target, Tell
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.environments.recipe import cache_key
from dagster_slurm.environments.uv import UvRecipe
from dagster_slurm.errors import (
    EnvironmentBuildError,
    InterpreterNotFoundError,
    RemoteStorageError,
    WheelNotFoundError,
)
from dagster_slurm.process_identity import ProcessIdentity
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport import Transport

from ..ssh import connection_of, opened
from .projects import Package, Project

RunIn = Callable[[Activation, str], str]
PYTHON = "/usr/bin/python3"


def recipe_of(project: Project, **options: object) -> UvRecipe:
    return UvRecipe(project.write(), python=PYTHON, **options)  # type: ignore[arg-type]


def entries(transport: Transport, base: str) -> list[str]:
    """Everything in the cache but its own directories."""
    listed = transport.command(("ls", "-1", f"{base}/env-cache")).text.split()
    return sorted(name for name in listed if name != "parts")


def test_packages_and_their_commands(project: Project, cache: EnvironmentCache, run_in: RunIn) -> None:
    project.packages = [Package("waves"), Package("moon", requires=["waves"])]
    activation = cache.provide(recipe_of(project))
    assert run_in(activation, "python -c 'import waves, moon; print(waves.VERSION)'") == "1.0\n"
    assert run_in(activation, "moon") == "moon 1.0\n"
    assert run_in(activation, f"{activation.python} -c 'import sys; print(sys.prefix != sys.base_prefix)'") == "True\n"


def test_it_may_be_moved(project: Project, cache: EnvironmentCache, transport: Transport, base: str) -> None:
    project.packages = [Package("waves")]
    activation = cache.provide(recipe_of(project))
    moved = f"{base}/{'a' * 200}"
    assert transport.command(("cp", "-r", "--", str(activation.path), moved)).returncode == 0
    assert transport.command((f"{moved}/env/bin/waves",)).text == "waves 1.0\n"


def test_the_second_time_nothing_is_done(
    project: Project, cache: EnvironmentCache, told: list[str], transport: Transport, base: str
) -> None:
    project.packages = [Package("waves")]
    recipe = recipe_of(project)
    first = cache.provide(recipe)
    assert [line for line in told if line.startswith("Installing")]
    told.clear()
    assert cache.provide(recipe) == first
    assert told == []
    assert len(entries(transport, base)) == 2


def test_another_checkout_has_the_same_key(project: Project, cache: EnvironmentCache, told: list[str]) -> None:
    project.packages, project.is_package = [Package("waves")], True
    first = cache.provide(recipe_of(project))
    told.clear()
    copy = project.directory.with_name("another")
    shutil.copytree(project.directory, copy)
    assert cache.provide(UvRecipe(copy, python=PYTHON)) == first
    assert told == []


def test_a_small_change_sends_little(project: Project, cache: EnvironmentCache, told: list[str], run_in: RunIn) -> None:
    project.packages = [Package("waves", size_bytes=1 << 20), Package("moon")]
    before = cache.provide(recipe_of(project))
    told.clear()
    project.packages[1].version = "2.0"
    after = cache.provide(recipe_of(project))
    assert "Installing the uv project tides: 4 parts, 1 of them new" in told
    assert after.path != before.path
    assert run_in(after, "python -c 'import moon; print(moon.VERSION)'") == "2.0\n"
    assert run_in(before, "python -c 'import moon; print(moon.VERSION)'") == "1.0\n"


def test_the_project_itself(project: Project, cache: EnvironmentCache, run_in: RunIn, told: list[str]) -> None:
    project.is_package = True
    module = project.write() / "tides" / "__init__.py"
    module.write_text("HEIGHT = 3\n")
    line = "python -c 'import tides; print(tides.HEIGHT)'"
    assert run_in(cache.provide(UvRecipe(project.directory, python=PYTHON)), line) == "3\n"
    module.write_text("HEIGHT = 4\n")
    told.clear()
    assert run_in(cache.provide(UvRecipe(project.directory, python=PYTHON)), line) == "4\n"
    assert [line for line in told if "1 of them new" in line]


def test_groups_are_environments_of_their_own(project: Project, cache: EnvironmentCache, run_in: RunIn) -> None:
    project.packages, project.groups = [Package("waves"), Package("radar")], {"gpu": ["radar"]}
    line = "python -c 'import importlib.util; print(importlib.util.find_spec(\"radar\") is not None)'"
    assert run_in(cache.provide(recipe_of(project)), line) == "False\n"
    assert run_in(cache.provide(recipe_of(project, groups=("gpu",))), line) == "True\n"


def test_pushed_anew(project: Project, cache: EnvironmentCache, transport: Transport) -> None:
    project.packages = [Package("waves")]
    recipe = recipe_of(project)
    first = cache.provide(recipe)
    second = cache.provide(recipe, force=True)
    assert first.path != second.path
    assert cache.provide(recipe) == second
    # A job may be running in it.
    assert transport.command((first.python, "-c", "import waves")).returncode == 0


def test_an_interpreter_that_is_gone(project: Project, cache: EnvironmentCache, transport: Transport) -> None:
    project.packages = [Package("waves")]
    recipe = recipe_of(project)
    first = cache.provide(recipe)
    transport.run('rm "$1/env/bin/python"* && ln -s /nowhere/python "$1/env/bin/python"', (str(first.path),))
    second = cache.provide(recipe)
    assert second.path != first.path
    assert transport.command((second.python, "-c", "import waves")).returncode == 0


class TestRefused:
    """One clear error, and nothing is left behind."""

    def test_no_such_interpreter(self, project: Project, cache: EnvironmentCache) -> None:
        recipe = UvRecipe(project.write(), python="python3.99")
        with pytest.raises(InterpreterNotFoundError, match=r"There is no python3\.99 on the cluster") as caught:
            cache.provide(recipe)
        assert PYTHON.rstrip("3") in str(caught.value.hint)

    def test_set_up_that_fails(self, project: Project, cache: EnvironmentCache) -> None:
        recipe = UvRecipe(project.write(), python=PYTHON, setup=("load_module_nowhere python/3.99",))
        with pytest.raises(EnvironmentBuildError, match="load_module_nowhere: command not found"):
            cache.provide(recipe)

    def test_an_interpreter_that_the_lock_is_not_for(self, project: Project, cache: EnvironmentCache) -> None:
        lock = project.write() / "uv.lock"
        lock.write_text(lock.read_text().replace(">=3.8", ">=3.99"))
        with pytest.raises(InterpreterNotFoundError, match=r"The lock is for Python >=3\.99, and /usr/bin/python3"):
            cache.provide(UvRecipe(project.directory, python=PYTHON))

    def test_no_wheel_for_the_platform(self, project: Project, cache: EnvironmentCache) -> None:
        project.packages = [Package("waves", tag="cp39-cp39-win_amd64")]
        with pytest.raises(WheelNotFoundError, match=r"waves 1\.0 has no wheel for linux-64 and Python 3"):
            cache.provide(recipe_of(project))

    def test_a_wheel_that_is_another_than_locked(self, project: Project, cache: EnvironmentCache) -> None:
        project.packages = [Package("waves")]
        recipe = recipe_of(project)
        (wheel,) = (project.directory / "wheels").iterdir()
        wheel.write_bytes(wheel.read_bytes() + b"more")
        with pytest.raises(EnvironmentBuildError, match="is not what the lock names"):
            cache.provide(recipe)

    def test_what_does_not_install(self, cache: EnvironmentCache, transport: Transport, base: str) -> None:
        with pytest.raises(EnvironmentBuildError, match="no such package"):
            cache.provide(Scripted("echo 'no such package' >&2; false; true"))
        assert entries(transport, base) == []

    def test_what_does_not_work(self, cache: EnvironmentCache, transport: Transport, base: str) -> None:
        broken = "mkdir -p env/bin; touch activate.sh; ln -s /bin/false env/bin/python"
        with pytest.raises(EnvironmentBuildError, match="was installed, and does not work"):
            cache.provide(Scripted(broken))
        assert entries(transport, base) == []

    @pytest.mark.cluster
    def test_no_space(self, project: Project, sandbox: Sandbox, told: list[str]) -> None:
        project.packages = [Package("waves", size_bytes=8 << 20)]
        with sandbox.small_filesystem(4) as small, opened(connection_of(sandbox.env())) as transport:
            cache = EnvironmentCache(SlurmCluster(transport, remote_base=str(small)), told.append)
            with pytest.raises(RemoteStorageError, match=r"[Nn]o space"):
                cache.provide(recipe_of(project))


@dataclass(frozen=True)
class Scripted:
    """A user's own recipe."""

    install: str
    title: str = "a script"

    def needs(self) -> Needs:
        return Needs()

    def key_inputs(self, target: Target) -> dict[str, str]:
        return {"install": self.install}

    def pack(self, target: Target, tell: Tell) -> Pack:
        return Pack((), self.install)


class TestManyBuilders:
    """One builds, the others wait; a dead one keeps nobody."""

    def test_ten_at_once(self, project: Project, base: str, transport: Transport) -> None:
        project.packages = [Package("waves", size_bytes=1 << 20)]
        project.write()
        builders = [Builder(project, base, transport) for _ in range(10)]
        said = [builder.ended() for builder in builders]
        assert len({path for path, _ in said}) == 1
        assert sum(any(line.startswith("Installing") for line in lines) for _, lines in said) == 1

    def test_another_machine_is_waited_for(
        self, cache: EnvironmentCache, told: list[str], transport: Transport
    ) -> None:
        elsewhere = ProcessIdentity("elsewhere", "another boot", "", 1, "1")
        recipe = Scripted("mkdir -p env/bin; touch activate.sh; sleep 0")
        lease = self._lease(cache, recipe, transport, f"12345678 {elsewhere.to_json()}")
        ends = threading.Timer(2.0, lambda: transport.command(("rm", "-f", lease)))
        ends.start()
        cache.provide(recipe)
        ends.join()
        assert told[0] == "Another machine installs a script; waiting"

    def test_a_lease_that_nobody_touches_is_void(self, cache: EnvironmentCache, transport: Transport) -> None:
        recipe = Scripted("mkdir -p env/bin; touch activate.sh; sleep 0.1")
        elsewhere = ProcessIdentity("elsewhere", "another boot", "", 1, "1")
        lease = self._lease(cache, recipe, transport, f"12345678 {elsewhere.to_json()}")
        transport.command(("touch", "-h", "-d", "2 minutes ago", lease))
        assert cache.provide(recipe).path

    @staticmethod
    def _lease(cache: EnvironmentCache, recipe: Scripted, transport: Transport, owner: str) -> str:
        key = cache_key(recipe, cache.target(recipe.needs()))
        lease = f"{cache.directory}/.leases/{key}"
        transport.run('mkdir -p "${2%/*}" && ln -s -T "$1" "$2"', (owner, lease))
        return lease

    @pytest.mark.timeout(300)
    def test_killed_at_random_moments(
        self, project: Project, base: str, transport: Transport, cache: EnvironmentCache, run_in: RunIn
    ) -> None:
        """`kill -9` of the builder, 20 times, at moments from its start to after its end."""
        chance = random.Random(6)
        project.packages = [Package("waves", size_bytes=24 << 20), *(Package(f"part{n}") for n in range(20))]
        took = _undisturbed(project, base, transport)
        for trial in range(20):
            project.packages[0].version = f"1.{trial}"
            project.write()
            builder = Builder(project, base, transport)
            time.sleep(chance.uniform(0, 1.1 * took))
            builder.kill()
            activation = cache.provide(UvRecipe(project.directory, python=PYTHON))
            assert run_in(activation, "python -c 'import waves, part7; print(waves.VERSION)'") == f"1.{trial}\n"
            _all_are_whole(transport, base)


def _undisturbed(project: Project, base: str, transport: Transport) -> float:
    project.write()
    began = time.monotonic()
    Builder(project, base, transport).ended()
    return time.monotonic() - began


def _all_are_whole(transport: Transport, base: str) -> None:
    """What a key's link points to has every file of its listing."""
    script = """cd "$1/env-cache" || exit 1
    for key in *; do
        [ -L "$key" ] || continue
        cd "$key" || exit 2
        find . -type f -printf '%s %P\\n' -o -type l -printf 'link %P\\n' | grep -v -e '__pycache__' -e '[.]listing$' |
            grep -v '[.]complete$' | LC_ALL=C sort >"/tmp/now.$$"
        grep -v -e '[.]listing$' .listing | cmp - "/tmp/now.$$" || exit 3
        cd ..
    done; rm -f "/tmp/now.$$" """
    answer = transport.run(script, (base,))
    assert answer.returncode == 0, answer


class Builder:
    """A process that provides the environment of a project."""

    def __init__(self, project: Project, base: str, transport: Transport) -> None:
        connection = getattr(transport, "connection", None)
        way = "LocalTransport()" if connection is None else f"OpenSSHTransport({connection!r})"
        program = f"""
import json
from pathlib import Path
from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.environments.recipe import cache_key
from dagster_slurm.environments.uv import UvRecipe
from dagster_slurm.transport import LocalTransport, OpenSSHTransport, SSHConnection
lines = []
cache = EnvironmentCache(SlurmCluster({way}, remote_base={base!r}), lines.append)
print(json.dumps([cache.provide(UvRecipe(Path({str(project.directory)!r}), python={PYTHON!r})).path, lines]))
"""
        argv = [sys.executable, "-c", program]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def ended(self) -> tuple[str, list[str]]:
        said, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0
        path, lines = json.loads(said)
        return path, lines

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
