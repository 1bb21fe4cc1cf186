"""Environments of `pixi.lock`: packed, sent file by file, unpacked and entered.

The locks and the packages are real ones. What packs and unpacks them are stand-ins over the same Rust crates; the real
programs run where `DAGSTER_SLURM_TEST_PIXI_PROJECT` names a locked project with Python in it, and pixi is on the PATH.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dagster_slurm.environments import Activation, Pack, Target, local_store
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.environments.pixi import PixiRecipe
from dagster_slurm.environments.recipe import cache_key
from dagster_slurm.environments.target import Program
from dagster_slurm.errors import DagsterSlurmError, EnvironmentBuildError, InvalidRequestError, LocalStorageError
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport import LocalTransport, OpenSSHTransport, Transport
from tests.support.pixi import HARBOUR, OTHER, OWN, WAVES, Channel, Conda, PixiProject, PyPI, lab

from ..ssh import connection_of
from . import projects

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("tools"), pytest.mark.sampled("transport", share=2)]

RunIn = Callable[[Activation, str], str]
TARGET = Target(OWN, login_platform=OWN)
TIDES = Conda("tides", "1.0", 300_000)
TO_FILE = ("pixi-pack", "-e", "{environment}", "-p", "{platform}", "-o", "{output}")


@pytest.fixture
def coast(tmp_path: Path, channel: Channel) -> PixiProject:
    made = PixiProject(tmp_path / "it's coast", channel)
    made.lock([TIDES])
    return made


@pytest.fixture
def stored(local_store: Path) -> Path:
    return local_store


@pytest.fixture(params=["here"])
def transport(request: pytest.FixtureRequest, tools: None) -> Iterator[Transport]:
    """This machine's own file system; for what is about a cluster, the sandbox's login node as well.

    Its shell starts after the tools are there, whose variables it has.
    """
    if request.param == "here":
        made: Transport = LocalTransport()
    else:
        made = OpenSSHTransport(connection_of(request.getfixturevalue("sandbox").env()))
    yield made
    made.close()


ON_BOTH = pytest.mark.parametrize(
    "transport", ["here", pytest.param("sandbox", marks=pytest.mark.cluster)], indirect=True
)


def ignore(told: str) -> None:
    del told


def wheel(directory: Path, name: str, *, says: str = "1.0") -> Path:
    """A wheel whose file name stays, and whose module says something else."""
    other = directory / "made"
    other.mkdir(parents=True, exist_ok=True)
    built = projects.make_wheel(other, projects.Package(name, says))
    path = directory / f"{name}-1.0-py3-none-any.whl"
    built.replace(path)
    other.rmdir()
    return path


def runs(tmp_path: Path) -> list[str]:
    log = tmp_path / "runs.txt"
    return log.read_text().splitlines() if log.exists() else []


def sent(pack: Pack) -> dict[str, str]:
    """What is sent, by name; each is what it is said to be."""
    for part in pack.parts:
        content = part.fetch()
        found = content if isinstance(content, bytes) else content.read_bytes()
        assert (hashlib.sha256(found).hexdigest(), len(found)) == (part.sha256, part.size_bytes)
    return {part.name: part.sha256 for part in pack.parts}


@ON_BOTH
@pytest.mark.parametrize("version", [6, 7])
def test_what_is_in_packages_works(
    version: int,
    tmp_path: Path,
    channel: Channel,
    cache: EnvironmentCache,
    run_in: RunIn,
    transport: Transport,
    base: str,
) -> None:
    """Python, a binary and a script with a baked-in prefix, a command, an untidy script for the activation, a wheel."""
    project = PixiProject(tmp_path / "coast", channel, version=version)
    made = wheel(project.directory / "wheels", "moon")
    project.lock([TIDES, WAVES, HARBOUR, PyPI("moon", f"./wheels/{made.name}")])
    activation = cache.provide(PixiRecipe(project.directory))
    prefix = f"{activation.path}/env"
    assert (
        run_in(activation, "python -c 'import tides, moon; print(tides.__version__, moon.__version__)'") == "1.0 1.0\n"
    )
    assert (
        run_in(activation, "waves-prefix; echo; waves-script; harbour-say") == f"{prefix}\n{prefix}\nharbour {prefix}\n"
    )
    assert run_in(activation, 'echo "$WAVES_HOME $CONDA_PREFIX"') == f"{prefix}/share/waves {prefix}\n"
    assert transport.run('ls -A "$1"', (str(activation.path),)).text.split() == [
        ".complete",
        ".listing",
        "activate.sh",
        "env",
    ]


class TestTheKey:
    """The packages of this environment and platform, and the content of what lies here."""

    def key(self, project: PixiProject, **options: object) -> str:
        return cache_key(PixiRecipe(project.directory, **options), TARGET)  # type: ignore[arg-type]

    def test_a_comment_in_the_lock_changes_nothing(self, coast: PixiProject) -> None:
        before = self.key(coast)
        coast.comment = "# locked on a rainy day\n"
        coast.lock([TIDES])
        assert self.key(coast) == before
        coast.lock([Conda("tides", "1.1", 300_000)])
        assert self.key(coast) != before

    def test_a_wheel_that_is_rebuilt_under_its_name(
        self, coast: PixiProject, cache: EnvironmentCache, run_in: RunIn
    ) -> None:
        line = "python -c 'import moon; print(moon.__version__)'"
        for says in ("1.0", "1.1"):
            made = wheel(coast.directory / "wheels", "moon", says=says)
            coast.lock([PyPI("moon", f"./wheels/{made.name}")])
            assert run_in(cache.provide(PixiRecipe(coast.directory)), line) == f"{says}\n"

    @pytest.mark.parametrize(
        "inside",
        [
            pytest.param(True, id="the project itself", marks=pytest.mark.all_faults),
            pytest.param(False, id="another directory"),
        ],
    )
    def test_the_source_of_a_project(
        self, inside: bool, tmp_path: Path, channel: Channel, cache: EnvironmentCache, run_in: RunIn
    ) -> None:
        """As `pixi init --format pyproject` makes them."""
        project = PixiProject(tmp_path / "coast", channel, manifest_name="pyproject.toml", manifest=PYPROJECT)
        where = project.directory if inside else tmp_path / "shore"
        location = "./" if inside else "../shore"
        (where / "shore").mkdir(parents=True)
        (where / "pyproject.toml").write_text(PYPROJECT)
        line = "python -c 'import shore; print(shore.HEIGHT)'"
        keys = set()
        for height in ("3", "4"):
            (where / "shore/__init__.py").write_text(f"HEIGHT = {height}\n")
            project.lock([PyPI("shore", location)])
            keys.add(self.key(project))
            project.comment += "# another lock\n"
            project.lock([PyPI("shore", location)])
            keys.add(self.key(project))
            assert run_in(cache.provide(PixiRecipe(project.directory)), line) == f"{height}\n"
        assert len(keys) == 2

    def test_the_recipe_of_a_conda_package_from_source(self, coast: PixiProject) -> None:
        recipe = with_conda_source(coast)
        before = self.key(coast)
        recipe.write_text("package:\n  name: shore\n  version: 2\n")
        assert self.key(coast) != before

    def test_it_is_the_same_in_every_checkout(self, coast: PixiProject, tmp_path: Path) -> None:
        wheel(coast.directory / "dist", "harbour")
        other = tmp_path / "elsewhere"
        shutil.copytree(coast.directory, other)
        os.utime(other / "pixi.lock", (1, 1))
        keys = set()
        for each in (coast.directory, other):
            command = (*TO_FILE, "--inject", f"{each}/dist/*.whl")
            recipe = PixiRecipe(each, pack_cmd=command, cache_inject_globs=("dist/**/*.whl",))
            keys.add(cache_key(recipe, TARGET))
            assert str(tmp_path) not in str(recipe.key_inputs(TARGET))
        assert len(keys) == 1

    def test_what_makes_it_another_environment(self, coast: PixiProject) -> None:
        wheel(coast.directory / "dist", "harbour")
        injecting: dict[str, object] = {"pack_cmd": (*TO_FILE, "-i", "dist/*.whl")}
        counting: dict[str, object] = {"cache_inject_globs": ("dist/**/*.whl",)}
        keys = [
            self.key(coast),
            self.key(coast, pack_cmd=TO_FILE),
            self.key(coast, **injecting),
            self.key(coast, **counting),
        ]
        wheel(coast.directory / "dist", "harbour", says="1.1")
        keys += [self.key(coast, **injecting), self.key(coast, **counting)]
        assert len(set(keys)) == len(keys)

    def test_projects_that_git_ignores(
        self, tmp_path: Path, channel: Channel, cache: EnvironmentCache, run_in: RunIn
    ) -> None:
        """Each has its own wheel, and another one when it changes."""
        project = PixiProject(tmp_path / "coast", channel)
        for name in ("shore", "cliff"):
            where = project.directory / "vendor" / name
            (where / name).mkdir(parents=True)
            (where / name / "__init__.py").write_text("HEIGHT = 3\n")
            (where / "pyproject.toml").write_text(PYPROJECT.replace("shore", name))
        (project.directory / ".gitignore").write_text("vendor/\n")
        subprocess.run(["git", "init", "-q"], cwd=project.directory, check=True)
        project.lock([PyPI("shore", "./vendor/shore"), PyPI("cliff", "./vendor/cliff")])
        line = "python -c 'import shore, cliff; print(shore.HEIGHT, cliff.HEIGHT)'"
        assert run_in(cache.provide(PixiRecipe(project.directory)), line) == "3 3\n"
        (project.directory / "vendor/cliff/cliff/__init__.py").write_text("HEIGHT = 4\n")
        assert run_in(cache.provide(PixiRecipe(project.directory)), line) == "3 4\n"

    def test_what_a_task_runs_and_injects(
        self, coast: PixiProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/pixi").touch(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
        keys = [self.key(coast)]
        for task in ("pixi-pack -i dist/*.whl", "pixi-pack -i dist/*.whl -q"):
            (coast.directory / "pixi.toml").write_text(f'{coast.manifest}[tasks]\npack = "{task}"\n')
            keys.append(self.key(coast))
        for says in ("1.0", "1.1"):
            wheel(coast.directory / "dist", "harbour", says=says)
            keys.append(self.key(coast))
        assert len(set(keys)) == len(keys)

    def test_where_it_is_packed_makes_no_other_one(self, coast: PixiProject) -> None:
        recipe = PixiRecipe(coast.directory, pack_on_remote=True)
        fallback = recipe.fallback()
        assert fallback and fallback.fallback() is None
        assert cache_key(recipe, TARGET) == cache_key(fallback, TARGET) == self.key(coast)


def with_conda_source(project: PixiProject) -> Path:
    """A conda package that is built from source, in the lock; its recipe."""
    (project.directory / "recipes").mkdir()
    recipe = project.directory / "recipes/recipe.yaml"
    recipe.write_text("package:\n  name: shore\n")
    lock = project.directory / "pixi.lock"
    entry = "conda_source: shore[abc12345] @ ./recipes"
    text = lock.read_text().replace("packages:\n- conda", f"packages:\n- {entry}\n- conda")
    lock.write_text(text.replace(f"      {OWN}:\n", f"      {OWN}:\n      - {entry}\n"))
    return recipe


PYPROJECT = """\
[project]
name = "shore"
version = "0.1.0"
requires-python = ">=3.8"

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.pixi.workspace]
channels = []
platforms = ["linux-64"]

[tool.pixi.pypi-dependencies]
shore = { path = ".", editable = true }
"""


class TestChecked:
    """Before anything is sent; and nothing of what is refused is kept."""

    @pytest.fixture
    def whole(self, coast: PixiProject, tmp_path: Path) -> bytes:
        """A self-extracting pack of more than two megabytes."""
        coast.lock([Conda("tides", "1.0", 2_000_000)])
        command = ["pixi-pack", "--create-executable", "-o", str(tmp_path / "whole.sh")]
        subprocess.run(command, cwd=coast.directory, check=True, capture_output=True)
        return (tmp_path / "whole.sh").read_bytes()

    def refused(self, coast: PixiProject, cache: EnvironmentCache, content: bytes) -> DagsterSlurmError:
        broken = coast.directory / "broken.sh"
        broken.write_bytes(content)
        recipe = PixiRecipe(coast.directory, pack_cmd=("cp", "broken.sh", "{output}"))
        with pytest.raises(EnvironmentBuildError) as caught:
            cache.provide(recipe)
        return caught.value

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda whole: whole[: 1 << 20], id="at 1 MB"),
            pytest.param(lambda whole: whole[: len(whole) // 2], id="in the middle"),
            pytest.param(lambda whole: whole[:-701], id="in the last kB"),
            pytest.param(lambda whole: whole[:900_000] + b"Q" + whole[900_001:], id="one byte"),
            pytest.param(lambda whole: whole[:900_000] + b"R" + whole[900_001:], id="one byte, another"),
        ],
    )
    def test_a_pack_that_is_not_whole(
        self, damage: Callable[[bytes], bytes], whole: bytes, coast: PixiProject, cache: EnvironmentCache, stored: Path,
        transport: Transport, base: str,
    ) -> None:  # fmt: skip
        damaged = damage(whole)
        if damaged == whole:
            return
        error = self.refused(coast, cache, damaged)
        assert "environment.sh" in error.message.splitlines()[0]
        assert not list((stored / "content").glob("*")) and not list((stored / "packs").glob("*"))
        assert not list((stored / "work").iterdir())
        assert transport.run('ls "$1"/env-cache/parts "$1"/env-cache/.incoming 2>/dev/null', (base,)).text.split() in (
            [],
            [f"{base}/env-cache/parts:"],
        )
        # The next one is taken as it is.
        recipe = PixiRecipe(coast.directory, pack_cmd=("cp", "broken.sh", "{output}"))
        (coast.directory / "broken.sh").write_bytes(whole)
        assert cache.provide(recipe).path

    def test_an_empty_one(self, coast: PixiProject, cache: EnvironmentCache) -> None:
        assert "has not made environment.sh" in self.refused(coast, cache, b"").message

    def test_one_for_another_platform(self, coast: PixiProject, tmp_path: Path, cache: EnvironmentCache) -> None:
        other = PixiProject(tmp_path / "other", coast.channel)
        other.lock([TIDES], platform=OTHER, python=False)
        command = ["pixi-pack", "-p", OTHER, "-o", str(tmp_path / "other.tar")]
        subprocess.run(command, cwd=other.directory, check=True, capture_output=True)
        error = self.refused(coast, cache, (tmp_path / "other.tar").read_bytes())
        assert f"was packed for {OTHER}, and {OWN} is needed" in error.message

    def test_one_of_another_lock(self, coast: PixiProject, whole: bytes, cache: EnvironmentCache) -> None:
        coast.lock([Conda("tides", "1.0", 2_000_000), WAVES])
        assert (
            "lacks channel/linux-64/waves-2.1-h0_0.conda, which pixi.lock names"
            in self.refused(coast, cache, whole).message
        )

    def test_what_the_packers_cache_has_is_looked_at(self, coast: PixiProject, stored: Path, channel: Channel) -> None:
        recipe = PixiRecipe(coast.directory)
        recipe.pack(TARGET, ignore)
        kept = stored / "pixi" / "noarch" / TIDES.filename
        kept.unlink()
        kept.write_bytes(b"something else")
        told: list[str] = []
        recipe.discard(TARGET)
        recipe.pack(TARGET, told.append)
        assert [line for line in told if f"{TIDES.filename} is not what the lock names; it is fetched again" in line]
        assert channel.asked.count(f"/noarch/{TIDES.filename}") == 2


def test_packages_are_downloaded_and_kept_once(
    coast: PixiProject, channel: Channel, stored: Path, tmp_path: Path
) -> None:
    recipe = PixiRecipe(coast.directory)
    first = sent(recipe.pack(TARGET, ignore))
    assert sent(recipe.pack(TARGET, ignore)) == first
    assert len(runs(tmp_path)) == 1
    coast.lock([TIDES, WAVES])
    second = sent(recipe.pack(TARGET, ignore))
    assert len(runs(tmp_path)) == 2
    assert sorted(channel.asked) == sorted(f"/{each.subdir}/{each.filename}" for each in (lab().python, TIDES, WAVES))
    package = f"pack/channel/noarch/{TIDES.filename}"
    assert first[package] == second[package]
    assert (stored / "pixi/noarch" / TIDES.filename).samefile(stored / "content" / first[package])
    assert not list((stored / "work").iterdir())


def test_what_is_damaged_in_the_store_is_replaced(
    coast: PixiProject, cache: EnvironmentCache, stored: Path, run_in: RunIn
) -> None:
    """As after a loss of power: the next try is one with good files."""
    recipe = PixiRecipe(coast.directory)
    recipe.pack(TARGET, ignore)
    for path in (stored / "content").iterdir():
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DagsterSlurmError):
        cache.provide(recipe)
    assert run_in(cache.provide(recipe), "python -c 'import tides; print(tides.__version__)'") == "1.0\n"


def test_a_platform_that_is_said_is_tried_as_well(coast: PixiProject, cache: EnvironmentCache, run_in: RunIn) -> None:
    unpack = coast.directory / "pixi-unpack"
    unpack.write_text("#!/bin/sh\nmkdir -p env/bin && ln -s /bin/false env/bin/python && touch activate.sh\n")
    command = (*TO_FILE, "--create-executable", "--pixi-unpack-source", "pixi-unpack")
    with pytest.raises(EnvironmentBuildError, match="was installed, and does not work"):
        cache.provide(PixiRecipe(coast.directory, platform=OWN, pack_cmd=command))


def test_what_disappears_from_the_store_is_packed_anew(coast: PixiProject, stored: Path, tmp_path: Path) -> None:
    recipe = PixiRecipe(coast.directory)
    recipe.pack(TARGET, ignore)
    next((stored / "content").iterdir()).unlink()
    sent(recipe.pack(TARGET, ignore))
    assert len(runs(tmp_path)) == 2


@pytest.mark.sampled("form", share=2)
@pytest.mark.parametrize("version", ["0.7.10", "0.7.5"])
@pytest.mark.parametrize("form", ["--create-executable", "", "--directory-only"])
def test_every_form_of_a_pack_and_of_the_unpacker(
    form: str, version: str, coast: PixiProject, cache: EnvironmentCache, run_in: RunIn, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A plain archive and a directory are unpacked by what an earlier pack has brought; an old one is given a tar."""
    program = lab().unpacker.read_text().replace('"0.7.10"', f'"{version}"')
    (coast.directory / "pixi-unpack").write_text(program)
    monkeypatch.setenv("PIXI_PACK_STAND_IN_VERSION", version)
    bringing = (*TO_FILE, "--create-executable", "--pixi-unpack-source", "pixi-unpack")
    if form != "--create-executable":
        PixiRecipe(coast.directory, pack_cmd=bringing).pack(TARGET, ignore)
        command = (*TO_FILE, form) if form else TO_FILE
    else:
        command = bringing
    activation = cache.provide(PixiRecipe(coast.directory, pack_cmd=command))
    assert run_in(activation, "python -c 'import tides; print(tides.__version__)'") == "1.0\n"


def test_nothing_to_unpack_with(coast: PixiProject, cache: EnvironmentCache, transport: Transport, base: str) -> None:
    with pytest.raises(EnvironmentBuildError, match="There is no pixi-unpack for linux-64") as caught:
        cache.provide(PixiRecipe(coast.directory, pack_cmd=TO_FILE))
    assert "pixi global install pixi-unpack" in str(caught.value.hint)
    assert transport.run('ls "$1"/env-cache/parts', (base,)).text == ""


def test_one_on_the_path_of_the_login_node(coast: PixiProject) -> None:
    target = replace(TARGET, program=Program("/opt/pixi/bin/pixi-unpack", (0, 7, 10)))
    pack = PixiRecipe(coast.directory, pack_cmd=TO_FILE).pack(target, ignore)
    assert pack.install.endswith("unpack_pixi directory /opt/pixi/bin/pixi-unpack\n")
    old = replace(TARGET, program=Program("/opt/pixi/bin/pixi-unpack", (0, 7, 5)))
    assert "unpack_pixi tar /opt" in PixiRecipe(coast.directory, pack_cmd=TO_FILE).pack(old, ignore).install


def test_without_a_way_to_github_the_last_unpacker_is_taken(
    coast: PixiProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = PixiRecipe(coast.directory)
    monkeypatch.setenv("PIXI_PACK_STAND_IN_OFFLINE", "yes")
    with pytest.raises(EnvironmentBuildError, match="status 1") as caught:
        recipe.pack(TARGET, ignore)
    assert "--pixi-unpack-source" in str(caught.value.hint)
    monkeypatch.delenv("PIXI_PACK_STAND_IN_OFFLINE")
    first = recipe.pack(TARGET, ignore)
    monkeypatch.setenv("PIXI_PACK_STAND_IN_OFFLINE", "yes")
    coast.lock([TIDES, WAVES])
    told: list[str] = []
    second = recipe.pack(TARGET, told.append)
    assert "pixi-unpack cannot be fetched; taking the one of an earlier pack" in told
    assert sent(first)["pixi-unpack"] == sent(second)["pixi-unpack"]


def test_what_did_not_install_is_packed_anew(
    coast: PixiProject, cache: EnvironmentCache, tmp_path: Path, run_in: RunIn
) -> None:
    broken = coast.directory / "pixi-unpack"
    broken.write_text("#!/bin/sh\nexit 3\n")
    recipe = PixiRecipe(
        coast.directory, pack_cmd=(*TO_FILE, "--create-executable", "--pixi-unpack-source", "pixi-unpack")
    )
    with pytest.raises(EnvironmentBuildError, match="it ended with status 75 and said nothing"):
        cache.provide(recipe)
    broken.write_text(lab().unpacker.read_text())
    assert run_in(cache.provide(recipe), "python -c 'import tides; print(tides.__version__)'") == "1.0\n"
    assert len(runs(tmp_path)) == 2


class TestRefused:
    """By name, before anything is downloaded."""

    def refused(self, project: PixiProject, tmp_path: Path, target: Target = TARGET, **options: object) -> str:
        recipe = PixiRecipe(project.directory, **options)  # type: ignore[arg-type]
        with pytest.raises((InvalidRequestError, EnvironmentBuildError)) as caught:
            recipe.key_inputs(target)
            recipe.pack(target, ignore)
        assert runs(tmp_path) == []
        assert caught.value.hint
        return caught.value.message

    def test_a_source_distribution(self, coast: PixiProject, tmp_path: Path) -> None:
        coast.lock([PyPI("slow", "https://files.example/slow-0.1.tar.gz", "0.1")])
        assert "slow 0.1 is locked as a source distribution, slow-0.1.tar.gz" in self.refused(coast, tmp_path)

    def test_a_conda_package_from_source(self, coast: PixiProject, tmp_path: Path) -> None:
        with_conda_source(coast)
        assert "shore is a conda package that is built from source, and `pixi`" in self.refused(coast, tmp_path)

    def test_a_wheel_that_is_missing(self, coast: PixiProject, tmp_path: Path) -> None:
        coast.lock([PyPI("moon", "./wheels/moon-1.0-py3-none-any.whl")])
        assert "wheels/moon-1.0-py3-none-any.whl, which pixi.lock names for moon" in self.refused(coast, tmp_path)

    def test_another_platform_than_the_login_nodes(self, coast: PixiProject, tmp_path: Path) -> None:
        target = Target(OTHER, login_platform=OWN)
        coast.lock([TIDES], platform=OTHER, python=False)
        assert f"pixi-unpack installs {OTHER} only on such a machine" in self.refused(coast, tmp_path, target)

    def test_a_platform_without_an_unpacker(self, coast: PixiProject, tmp_path: Path) -> None:
        coast.lock([TIDES], platform="linux-s390x", python=False)
        assert "no pixi-unpack for linux-s390x" in self.refused(coast, tmp_path, Target("linux-s390x"))

    def test_an_older_c_library(self, coast: PixiProject, tmp_path: Path) -> None:
        coast.lock([Conda("tides", "3.0", glibc="2.34")])
        target = replace(TARGET, glibc=(2, 28))
        assert "tides 3.0 needs glibc 2.34, and the login node has 2.28" in self.refused(coast, tmp_path, target)
        assert PixiRecipe(coast.directory).pack(replace(TARGET, glibc=(2, 34)), ignore).parts

    def test_an_environment_that_the_lock_has_not(self, coast: PixiProject, tmp_path: Path) -> None:
        assert "pixi.lock has no environment 'gpu'" in self.refused(coast, tmp_path, environment="gpu")

    def test_patterns_without_files(self, coast: PixiProject, tmp_path: Path) -> None:
        assert "'dist/*.whl' of `cache_inject_globs`" in self.refused(
            coast, tmp_path, cache_inject_globs=("dist/*.whl",)
        )
        command = (*TO_FILE, "--inject", "dist/*.whl")
        assert "'dist/*.whl' of --inject" in self.refused(coast, tmp_path, pack_cmd=command)

    def test_no_manifest_and_no_lock(self, coast: PixiProject, tmp_path: Path) -> None:
        (coast.directory / "pixi.toml").unlink()
        assert "neither pixi.toml nor pyproject.toml" in self.refused(coast, tmp_path)
        (coast.directory / "pixi.lock").unlink()
        assert "pixi.lock" in self.refused(coast, tmp_path)

    def test_no_tool(self, coast: PixiProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        assert "neither pixi-pack nor pixi on this machine" in self.refused(coast, tmp_path)
        assert "no-such-tool cannot be run" in self.refused(coast, tmp_path, pack_cmd=("no-such-tool",))


def test_no_space_here(coast: PixiProject) -> None:
    recipe = PixiRecipe(coast.directory, pack_cmd=("sh", "-c", "echo 'No space left on device (os error 28)'; exit 1"))
    with pytest.raises(LocalStorageError, match=f"There is no space left for packing .* in {local_store.directory()}"):
        recipe.pack(TARGET, ignore)


@pytest.mark.cluster
def test_no_space_for_what_is_taken_apart_here(
    coast: PixiProject, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packer has written its file elsewhere; what is full is the directory that is named."""
    subprocess.run(["pixi-pack", "-o", str(tmp_path / "pack.tar")], cwd=coast.directory, check=True)
    with sandbox.small_filesystem(2) as small:
        monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", str(small))
        recipe = PixiRecipe(coast.directory, pack_cmd=("ln", "-s", str(tmp_path / "pack.tar"), "{output}"))
        with pytest.raises(LocalStorageError, match=f"Cannot write to {small}/work: No space left on device"):
            recipe.pack(TARGET, ignore)


class TestCommands:
    """What users have packing for them."""

    def pixi(self, tmp_path: Path, script: str) -> None:
        """A `pixi`, in the directory where it installs itself."""
        home = tmp_path / "no-pixi/bin"
        home.mkdir(parents=True)
        (home / "pixi").write_text(f"#!/bin/sh\n{script}\n")
        (home / "pixi").chmod(0o755)

    def test_pixi_runs_the_packer_where_only_pixi_is(
        self, coast: PixiProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        self.pixi(tmp_path, f'[ "$1 $2" = "exec pixi-pack" ] || exit 9; shift 2; exec {lab().packer} "$@"')
        told: list[str] = []
        assert PixiRecipe(coast.directory).pack(TARGET, told.append).parts
        assert told[0].startswith("Running pixi exec pixi-pack --environment default")

    @pytest.mark.parametrize("stated", [True, False])
    def test_a_task_of_the_project(self, stated: bool, coast: PixiProject, tmp_path: Path) -> None:
        (coast.directory / "pixi.toml").write_text(f'{coast.manifest}[tasks]\npack-only = "x"\n')
        where = "-o build/coast.sh" if stated else ">/dev/null 2>&1"
        (coast.directory / "build").mkdir()
        self.pixi(tmp_path, f'[ "$*" = "run --frozen pack-only" ] || exit 9; pixi-pack --create-executable {where}')
        told: list[str] = []
        recipe = PixiRecipe(coast.directory)
        before = cache_key(recipe, TARGET)
        assert "pixi-unpack" in sent(recipe.pack(TARGET, told.append))
        assert told[0] == "Running pixi run --frozen pack-only"
        assert cache_key(recipe, TARGET) == before

    def test_without_pixi_the_task_is_left_alone(self, coast: PixiProject) -> None:
        (coast.directory / "pixi.toml").write_text(f'{coast.manifest}[tasks]\npack = "x"\n')
        told: list[str] = []
        PixiRecipe(coast.directory).pack(TARGET, told.append)
        assert told[0].startswith("Running pixi-pack ")

    def test_what_a_task_leaves_is_no_source_of_the_project(self, tmp_path: Path, channel: Channel) -> None:
        project = PixiProject(tmp_path / "coast", channel, manifest_name="pyproject.toml", manifest=PYPROJECT)
        (project.directory / "shore").mkdir(parents=True)
        (project.directory / "shore/__init__.py").touch()
        project.lock([PyPI("shore", "./")])
        recipe = PixiRecipe(project.directory)
        before = cache_key(recipe, TARGET)
        for form in ("--create-executable", "-o environment.tar", "--directory-only"):
            command = ["pixi-pack", "--ignore-pypi-non-wheel", *form.split()]
            subprocess.run(command, cwd=project.directory, check=True, capture_output=True)
        assert (project.directory / "environment").is_dir()
        assert cache_key(recipe, TARGET) == before
        (part,) = replace(recipe, pack_on_remote=True).pack(TARGET, ignore).parts
        content = part.fetch()
        assert isinstance(content, bytes) and len(content) < 20_000

    def test_an_injected_wheel(
        self, coast: PixiProject, tmp_path: Path, cache: EnvironmentCache, run_in: RunIn
    ) -> None:
        wheel(tmp_path / "packages/dist", "harbour", says="1.7")
        command = (*TO_FILE, "--create-executable", "--inject", "../packages/dist/*.whl")
        activation = cache.provide(PixiRecipe(coast.directory, pack_cmd=command))
        assert run_in(activation, "python -c 'import harbour; print(harbour.__version__)'") == "1.7\n"

    def test_a_command_that_builds_what_it_packs(
        self, coast: PixiProject, cache: EnvironmentCache, run_in: RunIn, tmp_path: Path
    ) -> None:
        """Something else each time; it is there for the next run all the same, and nothing old is kept."""
        wheel(coast.directory / "dist", "harbour")
        wheel(tmp_path / "other", "harbour", says="2.0")
        (coast.directory / "pack.sh").write_text(
            f"cp {tmp_path}/other/*.whl dist; date +%N >now.txt\n"
            'python3 -c \'import glob, zipfile; zipfile.ZipFile(glob.glob("dist/*.whl")[0], "a").write("now.txt")\'\n'
            'exec pixi-pack --create-executable -o "$1" -i dist/*.whl\n'
        )
        recipe = PixiRecipe(coast.directory, pack_cmd=("sh", "pack.sh", "{output}"), cache_inject_globs=("dist/*.whl",))
        activation = cache.provide(recipe)
        assert run_in(activation, "python -c 'import harbour; print(harbour.__version__)'") == "2.0\n"
        assert cache.provide(recipe) == activation

    def test_a_pack_of_before_that_is_stated_does_not_count(self, coast: PixiProject) -> None:
        """Said as seen from a directory below, where the new one is."""
        subprocess.run(["pixi-pack", "--create-executable"], cwd=coast.directory, check=True, capture_output=True)
        command = ("sh", "-c", "mkdir sub; cd sub; pixi-pack --create-executable -o environment.sh ../pixi.toml")
        with pytest.raises(EnvironmentBuildError, match=r"has not made environment\.sh"):
            PixiRecipe(coast.directory, pack_cmd=command).pack(TARGET, ignore)

    def test_a_file_of_before_does_not_count(self, coast: PixiProject) -> None:
        (coast.directory / "environment.sh").write_text("exit 0\n")
        with pytest.raises(EnvironmentBuildError, match=r"has not made environment\.sh: well, well"):
            PixiRecipe(coast.directory, pack_cmd=("echo", "well, well")).pack(TARGET, ignore)


@ON_BOTH
class TestOnTheLoginNode:
    """Packed there, by what it has."""

    @pytest.fixture
    def there(self, transport: Transport) -> Iterator[None]:
        """The tools, where pixi installs them."""
        for path in (lab().packer, lab().unpacker):
            script = (
                'home=${PIXI_HOME:-$HOME/.pixi}; mkdir -p "$home/bin"; cat >"$home/bin/$1"; chmod +x "$home/bin/$1"'
            )
            assert transport.run(script, (path.name,), stdin=path.read_bytes()).returncode == 0
        yield
        transport.run('rm -r "${PIXI_HOME:-$HOME/.pixi}"')

    @pytest.mark.sampled("form", share=2)
    @pytest.mark.parametrize("form", ["", "--create-executable", "--directory-only", "default"])
    @pytest.mark.usefixtures("there")
    def test_every_form(
        self, form: str, coast: PixiProject, cache: EnvironmentCache, run_in: RunIn, told: list[str]
    ) -> None:
        """With a wheel that git ignores, and one from outside of the project."""
        moon = wheel(coast.directory / "dist", "moon")
        wheel(coast.directory.parent / "packages", "harbour", says="1.7")
        subprocess.run(["git", "init", "-q"], cwd=coast.directory, check=True)
        (coast.directory / ".gitignore").write_text("dist\n")
        coast.lock([TIDES, PyPI("moon", f"./dist/{moon.name}")])
        command = (*TO_FILE[:-2], *(form.split()), "--inject", "../packages/*.whl")
        recipe = PixiRecipe(coast.directory, pack_on_remote=True, pack_cmd=None if form == "default" else command)
        activation = cache.provide(recipe)
        assert run_in(activation, "python -c 'import moon; print(moon.__version__)'") == "1.0\n"
        if form != "default":
            assert run_in(activation, "python -c 'import harbour; print(harbour.__version__)'") == "1.7\n"
        assert not [line for line in told if "cannot be packed on the login node" in line]

    @pytest.mark.usefixtures("there")
    def test_a_project_as_pixi_makes_it(
        self, tmp_path: Path, channel: Channel, cache: EnvironmentCache, run_in: RunIn
    ) -> None:
        project = PixiProject(tmp_path / "coast", channel, manifest_name="pyproject.toml", manifest=PYPROJECT)
        (project.directory / "shore").mkdir(parents=True)
        (project.directory / "shore/__init__.py").write_text("HEIGHT = 5\n")
        project.lock([PyPI("shore", "./")])
        activation = cache.provide(PixiRecipe(project.directory, pack_on_remote=True))
        assert run_in(activation, "python -c 'import shore; print(shore.HEIGHT)'") == "5\n"

    def test_without_a_tool_it_is_packed_here(
        self, coast: PixiProject, cache: EnvironmentCache, run_in: RunIn, told: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        # Not known to the shell of the login node, which is there already.
        own = coast.directory.parent / "own"
        own.mkdir()
        (own / "tides-pack").symlink_to(lab().packer)
        monkeypatch.setenv("PATH", f"{own}:/usr/bin:/bin")
        command = ("tides-pack", *TO_FILE[1:], "--create-executable")
        activation = cache.provide(PixiRecipe(coast.directory, pack_on_remote=True, pack_cmd=command))
        assert run_in(activation, "python -c 'import tides; print(tides.__version__)'") == "1.0\n"
        assert [line for line in told if line.startswith("It cannot be packed on the login node (tides-pack is not")]

    @pytest.mark.usefixtures("there")
    def test_what_the_packer_says_there(self, coast: PixiProject, cache: EnvironmentCache) -> None:
        recipe = PixiRecipe(coast.directory, pack_on_remote=True, pack_cmd=("pixi-pack", "-e", "gpu"))
        with pytest.raises(EnvironmentBuildError, match=r"environment not found in lockfile: gpu\n(.|\n)*ended with 1"):
            cache.provide(recipe)


def test_what_lies_outside_the_project_is_not_packed_there(coast: PixiProject) -> None:
    moon = wheel(coast.directory.parent / "dist", "moon")
    coast.lock([PyPI("moon", f"../dist/{moon.name}")])
    with pytest.raises(InvalidRequestError, match="is not within the project"):
        PixiRecipe(coast.directory, pack_on_remote=True).pack(TARGET, ignore)


REAL_PROJECT = os.environ.get("DAGSTER_SLURM_TEST_PIXI_PROJECT")


@pytest.mark.skipif(
    not REAL_PROJECT,
    reason="needs pixi-pack or pixi on the PATH, a network, and a locked project with Python in "
    "DAGSTER_SLURM_TEST_PIXI_PROJECT",
)
def test_the_real_programs(
    cache: EnvironmentCache, run_in: RunIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As the user has it, and not as the tests here do.
    monkeypatch.undo()
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", str(tmp_path / "store"))
    activation = cache.provide(PixiRecipe(Path(str(REAL_PROJECT))))
    assert run_in(activation, "python -c 'import sys; print(sys.prefix)'") == f"{activation.path}/env\n"
