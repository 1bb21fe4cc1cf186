"""Environments on a cluster's file system: installed once, whole or not at all, whatever dies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from dagster_slurm.environments import Activation, Needs, Pack, Recipe, Target, Tell
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.environments.recipe import cache_key
from dagster_slurm.environments.uv import UvRecipe
from dagster_slurm.errors import (
    EnvironmentBuildError,
    InterpreterNotFoundError,
    WheelNotFoundError,
)
from dagster_slurm.process_identity import ProcessIdentity
from dagster_slurm.transport import Transport

from .projects import Package, Project

pytestmark = pytest.mark.process

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
    assert run_in(activation, "python -c 'import waves, moon; print(waves.__version__)'") == "1.0\n"
    assert run_in(activation, "moon") == "moon 1.0\n"
    assert run_in(activation, f"{activation.python} -c 'import sys; print(sys.prefix != sys.base_prefix)'") == "True\n"


def test_it_may_be_moved(project: Project, cache: EnvironmentCache, transport: Transport, base: str) -> None:
    project.packages = [Package("waves")]
    activation = cache.provide(recipe_of(project))
    moved = f"{base}/{'a' * 200}"
    assert transport.command(("cp", "-r", "--", str(activation.path), moved)).returncode == 0
    assert transport.command((f"{moved}/env/bin/waves",)).text == "waves 1.0\n"


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


def test_one_that_the_group_may_read(
    project: Project, cache: EnvironmentCache, transport: Transport, base: str, told: list[str]
) -> None:
    """One that was there before, too; what lies beside it stays as it is."""
    project.packages = [Package("waves")]
    activation = cache.provide(recipe_of(project))
    cache._cluster.shares_environments = True
    assert cache.provide(recipe_of(project)) == cache.provide(recipe_of(project)) == activation
    assert [line for line in told if "may read" in line] == [f"The group may read the environment {activation.path}"]
    loose = transport.command(
        ("find", str(activation.path), "!", "-type", "l", "(", "-perm", "/022", "-o", "!", "-perm", "-040", ")")
    )
    assert (loose.returncode, loose.text) == (0, "")
    above = transport.command(("stat", "-c", "%A", f"{base}/env-cache", base, f"{base}/env-cache/parts"))
    assert [mode[4:] for mode in above.text.split()] == ["--x---", "--x---", "------"]


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


def test_what_changes_while_it_is_packed(project: Project, cache: EnvironmentCache, run_in: RunIn) -> None:
    """It is packed again, and found by what it is."""
    project.is_package = True
    module = project.write() / "tides" / "__init__.py"
    module.write_text("HEIGHT = 3\n")
    line = "python -c 'import tides; print(tides.HEIGHT)'"
    first = cache.provide(Changing(project.directory, python=PYTHON))
    assert run_in(first, line) == "4\n"
    assert cache.provide(Changing(project.directory, python=PYTHON)) == first
    module.write_text("HEIGHT = 3\n")
    plain = cache.provide(UvRecipe(project.directory, python=PYTHON))
    assert run_in(plain, line) == "3\n"


@dataclass(frozen=True)
class Changing(UvRecipe):
    """Somebody saves a file of the project when it has been packed."""

    def pack(self, target: Target, tell: Tell) -> Pack:
        packed = super().pack(target, tell)
        (self.project / "tides" / "__init__.py").write_text("HEIGHT = 4\n")
        return packed


@dataclass(frozen=True)
class Scripted(Recipe):
    """A user's own recipe."""

    install: str

    @property
    def title(self) -> str:
        return "a script"

    def needs(self) -> Needs:
        return Needs()

    def key_inputs(self, target: Target) -> dict[str, str]:
        return {"install": self.install}

    def pack(self, target: Target, tell: Tell) -> Pack:
        return Pack((), self.install)


class TestLeases:
    """Who builds says so on the cluster, for other machines; a dead one keeps nobody."""

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
