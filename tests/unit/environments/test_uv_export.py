"""Which wheels of a lock are chosen: for the target's platform and Python, not for this machine's."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm import NoEnvironment, UvEnvironment
from dagster_slurm.environments import ClusterPython
from dagster_slurm.environments.target import MACHINES, Program, Python, Target, platform_tags, target_of
from dagster_slurm.environments.uv import UvRecipe
from dagster_slurm.environments.uv_export import (
    LocalProject,
    Selection,
    exported,
    locked_names,
    not_locked,
    select,
    uv_program,
)
from dagster_slurm.errors import (
    DagsterSlurmError,
    EnvironmentBuildError,
    InterpreterNotFoundError,
    InvalidRequestError,
    WheelNotFoundError,
)
from dagster_slurm.resources.environments import found_environment

# As uv writes it; shortened, with another index.
LOCK = """
version = 1
revision = 3
requires-python = ">=3.10"
resolution-markers = ["python_full_version >= '3.11'", "python_full_version < '3.11'"]
conflicts = [[{ package = "tides", extra = "cpu" }, { package = "tides", extra = "gpu" }]]

[[package]]
name = "coast"
version = "0.1.0"
source = { editable = "coast" }

[[package]]
name = "numpy"
version = "1.26.4"
source = { registry = "https://index.invalid/simple" }
resolution-markers = ["python_full_version < '3.11'"]
wheels = [
    { url = "https://index.invalid/a/numpy-1.26.4-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", hash = "sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1", size = 10 },
]

[[package]]
name = "numpy"
version = "2.4.1"
source = { registry = "https://index.invalid/simple" }
resolution-markers = ["python_full_version >= '3.11'"]
wheels = [
    { url = "https://index.invalid/b/numpy-2.4.1-cp311-cp311-macosx_14_0_arm64.whl", hash = "sha256:b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0", size = 1 },
    { url = "https://index.invalid/b/numpy-2.4.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", hash = "sha256:b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1", size = 2 },
    { url = "https://index.invalid/b/numpy-2.4.1-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", hash = "sha256:b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2", size = 3 },
    { url = "https://index.invalid/b/numpy-2.4.1-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", hash = "sha256:b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3", size = 4 },
    { url = "https://index.invalid/b/numpy-2.4.1-cp311-cp311-musllinux_1_2_x86_64.whl", hash = "sha256:b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4", size = 5 },
]

[[package]]
name = "pandas"
version = "3.0.0"
source = { registry = "https://index.invalid/simple" }
dependencies = [
    { name = "numpy", version = "1.26.4", source = { registry = "https://index.invalid/simple" }, marker = "python_full_version < '3.11'" },
    { name = "numpy", version = "2.4.1", source = { registry = "https://index.invalid/simple" }, marker = "python_full_version >= '3.11'" },
    { name = "tzdata", marker = "sys_platform == 'win32'" },
]
wheels = [
    { url = "https://index.invalid/p/pandas-3.0.0-cp39-abi3-manylinux2014_x86_64.whl", hash = "sha256:c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1", size = 6 },
    { url = "https://index.invalid/p/pandas-3.0.0-cp39-abi3-manylinux2014_aarch64.whl", hash = "sha256:c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2", size = 6 },
]

[package.optional-dependencies]
excel = [{ name = "openpyxl" }]

[[package]]
name = "openpyxl"
version = "3.1.5"
source = { registry = "https://index.invalid/simple" }
wheels = [{ url = "https://index.invalid/o/openpyxl-3.1.5-py2.py3-none-any.whl", hash = "sha256:d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1", size = 7 }]

[[package]]
name = "oldstyle"
version = "0.3"
source = { registry = "https://index.invalid/simple" }
sdist = { url = "https://index.invalid/s/oldstyle-0.3.tar.gz", hash = "sha256:e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1", size = 8 }

[[package]]
name = "tides"
version = "0.1.0"
source = { virtual = "." }
dependencies = [{ name = "pandas" }, { name = "coast" }]

[package.optional-dependencies]
sheets = [{ name = "pandas", extra = ["excel"] }]
cpu = [{ name = "torch", version = "2.9+cpu", source = { registry = "https://cpu.invalid/simple" }, marker = "extra == 'extra-5-tides-cpu'" }]
gpu = [{ name = "torch", version = "2.9", source = { registry = "https://gpu.invalid/simple" }, marker = "extra == 'extra-5-tides-gpu' and extra != 'extra-5-tides-cpu'" }]

[package.dev-dependencies]
dev = [{ name = "openpyxl" }]
old = [{ name = "oldstyle" }]

[[package]]
name = "torch"
version = "2.9"
source = { registry = "https://gpu.invalid/simple" }
wheels = [{ url = "https://gpu.invalid/t/torch-2.9-cp311-cp311-manylinux_2_28_x86_64.whl", hash = "sha256:f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1", size = 9 }]

[[package]]
name = "torch"
version = "2.9+cpu"
source = { registry = "https://cpu.invalid/simple" }
wheels = [{ url = "https://cpu.invalid/t/torch-2.9%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl", hash = "sha256:f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2", size = 9 }]

[[package]]
name = "tzdata"
version = "2026.1"
source = { registry = "https://index.invalid/simple" }
wheels = [{ url = "https://index.invalid/z/tzdata-2026.1-py2.py3-none-any.whl", hash = "sha256:9999999999999999999999999999999999999999999999999999999999999999", size = 1 }]
"""  # noqa: E501 - lines as uv writes them

NUMPY = "numpy-2.4.1-cp311-cp311-manylinux_2_27_{0}.manylinux_2_28_{0}.whl"
PANDAS = "pandas-3.0.0-cp39-abi3-manylinux2014_{0}.whl"


def target(
    platform: str = "linux-64", version: tuple[int, int, int] = (3, 11, 2), glibc: tuple[int, int] | None = (2, 36)
) -> Target:
    return Target(platform, Python("/usr/bin/python3", version, glibc))


MANIFEST = """
[project]
name = "tides"
version = "0.1.0"
requires-python = ">=3.10"
dependencies = ["pandas", "coast"]
[project.optional-dependencies]
sheets = ["pandas[excel]"]
cpu = ["torch"]
gpu = ["torch"]
[dependency-groups]
dev = ["openpyxl"]
old = ["oldstyle"]
[tool.uv.sources]
coast = { path = "coast", editable = true }
"""
Chosen = Callable[..., Selection]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tides")
    (directory / "pyproject.toml").write_text(MANIFEST)
    (directory / "uv.lock").write_text(LOCK)
    return directory


@pytest.fixture
def chosen(project: Path) -> Chosen:
    def choose(of: Target, *extras: str, groups: tuple[str, ...] = ()) -> Selection:
        return select(exported(project, extras, groups), of)

    return choose


def names(selection: Selection) -> list[str]:
    return [wheel.filename for wheel in selection.wheels]


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (target(), [NUMPY.format("x86_64"), PANDAS.format("x86_64")]),
        (target("linux-aarch64", glibc=(2, 28)), [NUMPY.format("aarch64"), PANDAS.format("aarch64")]),
        (
            target(version=(3, 10, 9)),
            [
                "numpy-1.26.4-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
                PANDAS.format("x86_64"),
            ],
        ),
    ],
    ids=["x86_64", "aarch64", "an older Python"],
)
def test_the_best_wheel_for_the_target(chosen: Chosen, of: Target, expected: list[str]) -> None:
    assert names(chosen(of)) == expected


def test_projects_of_this_machine_are_built(chosen: Chosen) -> None:
    assert chosen(target()).projects == (LocalProject("coast", "coast"),)


def test_extras_groups_and_extras_of_dependencies(chosen: Chosen) -> None:
    assert "openpyxl-3.1.5-py2.py3-none-any.whl" not in names(chosen(target()))
    assert "openpyxl-3.1.5-py2.py3-none-any.whl" in names(chosen(target(), "sheets"))
    assert "openpyxl-3.1.5-py2.py3-none-any.whl" in names(chosen(target(), groups=("dev",)))


@pytest.mark.parametrize(
    ("extra", "url"),
    [("cpu", "https://cpu.invalid/t/torch-2.9%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl"), ("gpu", None)],
)
def test_extras_that_exclude_each_other(chosen: Chosen, extra: str, url: str | None) -> None:
    (torch,) = [wheel for wheel in chosen(target(), extra).wheels if wheel.project == "torch"]
    assert (
        torch.filename
        == ("torch-2.9+cpu" if extra == "cpu" else "torch-2.9") + "-cp311-cp311-manylinux_2_28_x86_64.whl"
    )
    assert url is None or torch.url == url


@pytest.mark.parametrize(
    ("of", "options", "kind", "text"),
    [
        (
            target(version=(3, 9, 2)),
            {},
            InterpreterNotFoundError,
            r"for Python >=3\.10, and /usr/bin/python3 .* 3\.9\.2",
        ),
        (
            target(version=(3, 13, 0)),
            {},
            WheelNotFoundError,
            r"numpy 2\.4\.1 has no wheel for linux-64 and Python 3\.13\.0",
        ),
        (target(glibc=(2, 17)), {}, WheelNotFoundError, r"it has 5, such as numpy-2\.4\.1-cp311-cp311-macosx"),
        (target(), {"groups": ("old",)}, WheelNotFoundError, r"oldstyle 0\.3 .* it has none at all, only sources"),
        (target(), {"groups": ("tests",)}, InvalidRequestError, r"Group `tests` is not defined"),
    ],
)
def test_refused(chosen: Chosen, of: Target, options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        chosen(of, **options)


@pytest.mark.parametrize(
    ("extras", "groups", "more"),
    [
        ((), (), set()),
        (("sheets",), (), {"openpyxl"}),
        (("cpu",), (), {"torch"}),
        ((), ("dev", "old"), {"openpyxl", "oldstyle"}),
    ],
)
def test_names_for_whatever_target(
    project: Path, extras: tuple[str, ...], groups: tuple[str, ...], more: set[str]
) -> None:
    found = locked_names(exported(project, extras, groups))
    assert found == {"pandas", "coast", "numpy", "tzdata"} | more


RECORDED = Path(__file__).parents[2] / "recorded" / "uv_lock"
BEFORE = json.loads((RECORDED / "chosen.json").read_text())


@pytest.mark.parametrize("case", BEFORE, ids=lambda case: re.sub(r"\W+", "-", case))
def test_the_same_wheels_as_of_a_reader_of_our_own(case: str) -> None:
    """Of numpy, click and others, for each platform, Python and choice; written by the reader that was here before."""
    platform, version, glibc, extra, group = case.split(" ")
    of = target(platform, tuple(map(int, version.split("."))), tuple(map(int, glibc.split("."))))  # type: ignore[arg-type]
    try:
        found: object = sorted(
            names(select(exported(RECORDED, [extra] if extra else [], [group] if group else []), of))
        )
    except DagsterSlurmError as error:
        found = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert found == BEFORE[case]


@pytest.mark.parametrize("name", ["Fast_IO", "fast-io", "FAST.io", "Old_Plots", "old-plots", "OLD_PLOTS"])
def test_every_spelling_of_a_group_or_an_extra(name: str) -> None:
    """Only that of the lock was found, which `environment_name` did not take."""
    kind = UvRecipe(RECORDED).kind_of(name)
    package = {"groups": "six", "extras": "msgpack"}[kind]
    of = UvRecipe(RECORDED, **{kind: (name,)})  # type: ignore[arg-type]
    assert package in {wheel.project for wheel in of._selection(target()).wheels}
    assert package not in {wheel.project for wheel in UvRecipe(RECORDED)._selection(target()).wheels}


METADATA = {
    "requires-dist": [
        {"name": "numpy", "specifier": ">=2"},
        {"name": "coast", "editable": "coast"},
        {"name": "idna", "marker": "extra == 'big-one'", "specifier": ">=3,<4"},
    ],
    "requires-dev": {"dev-tools": [{"name": "six"}]},
}


@pytest.mark.parametrize(
    ("project", "groups", "missing"),
    [
        ({"dependencies": ["numpy>=2", "coast"]}, {}, []),
        ({"dependencies": ["NumPy >= 2.1", "pandas"]}, {}, ["NumPy >= 2.1", "pandas"]),
        ({"dependencies": ["numpy>=2; python_version<'3.12'"]}, {}, []),
        ({"optional-dependencies": {"Big_One": ["idna<4,>=3", "six"]}}, {}, ["six"]),
        ({}, {"Dev.Tools": ["six", {"include-group": "x"}], "x": ["mypy"]}, ["mypy"]),
        ({"dependencies": ["no requirement at all !"]}, {}, []),
    ],
)
def test_what_is_asked_for_and_not_locked(project: dict[str, Any], groups: dict[str, Any], missing: list[str]) -> None:
    manifest = {"project": {"name": "Tides", **project}, "dependency-groups": groups}
    assert not_locked({"package": [{"name": "tides", "metadata": METADATA}]}, manifest) == missing
    assert not_locked({"package": [{"name": "tides"}]}, manifest) == []
    assert not_locked({}, {}) == []


def made(directory: Path, manifest: str, lock: str | None) -> Path:
    (directory / "pyproject.toml").write_text(manifest)
    if lock is not None:
        (directory / "uv.lock").write_text(lock)
    return directory


class TestNotUsable:
    """Typed, with the line that mends it."""

    @pytest.mark.parametrize(
        ("manifest", "lock", "text"),
        [
            (MANIFEST, None, "There is no .*uv.lock"),
            (MANIFEST, "version = 2\n", "unsupported schema version"),
            (MANIFEST, LOCK.replace('name = "tides"', 'name = "waves"', 1), "uv cannot read .*uv.lock"),
            (MANIFEST, "no TOML", "cannot be read"),
            (MANIFEST, LOCK.replace(', hash = "sha256:' + "d1" * 32 + '"', ""), "hash"),
        ],
    )
    def test_a_lock(self, tmp_path: Path, manifest: str, lock: str | None, text: str) -> None:
        with pytest.raises(InvalidRequestError, match=text) as caught:
            exported(made(tmp_path, manifest, lock), ["sheets"], [])
        assert lock == "no TOML" or "hash" in text or "uv lock" in str(caught.value.hint)

    def test_one_that_is_not_fresh(self, tmp_path: Path) -> None:
        """What was added was left out of the environment, without a word."""
        manifest = (RECORDED / "pyproject.toml").read_text()
        lock = (RECORDED / "uv.lock").read_text()
        exported(made(tmp_path, manifest, lock), [], [])
        with pytest.raises(
            InvalidRequestError, match=r"not up to date: it does not have scipy of .*pyproject"
        ) as caught:
            exported(made(tmp_path, manifest.replace('"click"', '"click", "scipy"'), lock), [], [])
        assert caught.value.hint == "`uv lock` brings it up to date."

    @pytest.mark.parametrize(
        ("said", "kind", "text"),
        [
            ("error: invalid value 'pylock.toml' for '--format <FORMAT>'", EnvironmentBuildError, "is too old"),
            (
                "error: Required uv version `>=9` does not match the running version",
                EnvironmentBuildError,
                "is too old",
            ),
            ("error: something else", InvalidRequestError, "something else"),
        ],
    )
    def test_a_uv(
        self,
        project: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        said: str,
        kind: type[Exception],
        text: str,
    ) -> None:
        """A stand-in that says what one of before 0.7 says."""
        stand_in = tmp_path / "uv"
        stand_in.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 2\n'.replace("`", "\\`"))
        stand_in.chmod(0o755)
        monkeypatch.setattr("uv.find_uv_bin", lambda: str(stand_in))
        with pytest.raises(kind, match=text):
            exported(project, ["sheets", "cpu"], [])

    def test_no_uv(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing() -> str:
            raise FileNotFoundError("uv")

        monkeypatch.setattr("uv.find_uv_bin", missing)
        with pytest.raises(EnvironmentBuildError, match="uv is not installed"):
            exported(project, ["sheets", "gpu"], [])


WORKSPACE = {
    "pyproject.toml": """
[project]
name = "atlas"
version = "0.1.0"
requires-python = ">=3.8"
dependencies = ["coast"]
[tool.uv.sources]
coast = { workspace = true }
[tool.uv.workspace]
members = ["packages/*"]
""",
    "packages/coast/pyproject.toml": """
[project]
name = "coast"
version = "0.1.0"
requires-python = ">=3.8"
dependencies = ["deep"]
[tool.uv.sources]
deep = { workspace = true }
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
""",
    "packages/deep/pyproject.toml": """
[project]
name = "deep"
version = "0.1.0"
requires-python = ">=3.8"
dependencies = ["side"]
[tool.uv.sources]
side = { path = "../../side" }
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
""",
    "side/pyproject.toml": """
[project]
name = "side"
version = "0.1.0"
requires-python = ">=3.8"
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
""",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with two members, of which one needs a path, locked by uv."""
    for name, text in WORKSPACE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run([uv_program(), "lock", "--offline", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("of", "projects"),
    [
        (".", {"coast": "packages/coast", "deep": "packages/deep", "side": "side"}),
        ("packages/coast", {"coast": ".", "deep": "../deep", "side": "../../side"}),
        ("packages/deep", {"deep": ".", "side": "../../side"}),
    ],
)
def test_a_workspace(workspace: Path, of: str, projects: dict[str, str]) -> None:
    """A member had no lock, and the root no form that worked (uv#17351)."""
    found = UvRecipe(workspace / of)._selection(target()).projects
    assert {each.name: each.directory for each in found} == projects
    assert all((workspace / of / each.directory / "pyproject.toml").is_file() for each in found)


def test_a_member_that_asks_for_what_is_not_locked_is_named(workspace: Path) -> None:
    deep = workspace / "packages" / "deep" / "pyproject.toml"
    deep.write_text(deep.read_text().replace('["side"]', '["side", "scipy"]'))
    with pytest.raises(InvalidRequestError, match=r"does not have scipy of .*deep/pyproject.toml"):
        UvRecipe(workspace)._selection(target())


def test_a_workspace_without_a_project_of_its_own_is_all_its_members(workspace: Path) -> None:
    root = workspace / "pyproject.toml"
    root.write_text('[tool.uv.workspace]\nmembers = ["packages/*"]\n')
    subprocess.run([uv_program(), "lock", "--offline", "--quiet"], cwd=workspace, check=True)
    recipe = UvRecipe(workspace)
    assert {each.name for each in recipe._selection(target()).projects} == {"coast", "deep", "side"}
    assert recipe.title == f"the uv project {workspace.name}"


def test_the_key_is_of_content_alone(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere") / "checkout"
    workspace.rename(other)
    moved = UvRecipe(other / "packages/coast").key_inputs(target())
    other.rename(workspace)
    of = UvRecipe(workspace / "packages/coast")
    assert of.key_inputs(target()) == moved
    (workspace / "packages/deep/deep.py").write_text("x = 1\n")
    assert of.key_inputs(target()) != moved


def test_what_the_users_shell_says_to_uv_does_not_count(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_LOCKED", "1")
    monkeypatch.setenv("UV_PROJECT", "/nowhere")
    assert locked_names(exported(project, ["sheets"], ["dev"])) >= {"openpyxl"}


def test_no_credentials_in_the_command_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Indexes are in the lock, and logins in the environment, from where uv has them."""
    stand_in = tmp_path / "uv"
    stand_in.write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/argv\nexec {uv_program()} "$@"\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(stand_in))
    monkeypatch.setenv("UV_INDEX_URL", "https://me:s3cret@index.invalid/simple")
    exported(project, ["cpu"], ["dev"])
    assert "s3cret" not in (tmp_path / "argv").read_text() + caplog.text


class TestTarget:
    """What the cluster says of itself."""

    def test_with_an_interpreter(self) -> None:
        found = target_of(
            'x86_64\n{"path": "/usr/bin/python3", "version": [3, 11, 2], "glibc": [2, 36]}\n', platform=None
        )
        assert found == replace(target(), login_platform="linux-64")

    def test_without(self) -> None:
        assert target_of("aarch64\n", platform=None) == Target("linux-aarch64", login_platform="linux-aarch64")

    @pytest.mark.parametrize(
        ("line", "program"),
        [
            (
                "program /home/it is/.pixi/bin/pixi-unpack 0.7.10",
                Program("/home/it is/.pixi/bin/pixi-unpack", (0, 7, 10)),
            ),
            ("program /usr/bin/pixi-unpack ", Program("/usr/bin/pixi-unpack", ())),
        ],
    )
    def test_its_library_and_a_program(self, line: str, program: Program) -> None:
        found = target_of(f"x86_64\nglibc 2.28\n{line}\n", platform=None)
        assert found == Target("linux-64", None, "linux-64", (2, 28), program)

    def test_another_platform_than_the_login_nodes(self) -> None:
        """Its own C library says nothing about the others'."""
        said = 'x86_64\n{"path": "/usr/bin/python3", "version": [3, 11, 2], "glibc": [2, 36]}\n'
        found = target_of(said, platform="linux-aarch64")
        assert found == replace(target("linux-aarch64", glibc=(2, 28)), login_platform="linux-64")

    @pytest.mark.parametrize(("facts", "platform"), [("sparc64\n", None), ("x86_64\n", "linux-32")])
    def test_refused(self, facts: str, platform: str | None) -> None:
        with pytest.raises(InvalidRequestError, match="linux-64"):
            try:
                target_of(facts, platform=platform)
            except InvalidRequestError as error:
                raise InvalidRequestError(str(error.hint)) from error

    @given(machine=st.sampled_from(sorted(MACHINES.values())), minor=st.integers(17, 60))
    def test_newer_tags_come_first(self, machine: str, minor: int) -> None:
        tags = platform_tags(machine, (2, minor))
        assert tags[0] == f"manylinux_2_{minor}_{machine}"
        assert tags[-1] == f"linux_{machine}"
        assert f"manylinux2014_{machine}" in tags
        assert len(tags) == len(set(tags))
        assert platform_tags(machine, (2, minor - 1))[0] in tags

    def test_without_glibc_only_plain_linux(self) -> None:
        assert platform_tags("x86_64", None) == ["linux_x86_64"]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (".", "."),
        ("packages", "."),
        ("packages/coast", "packages/coast"),
        ("packages/coast/src/deep", "packages/coast"),
        ("side", "."),
    ],
)
def test_the_environment_of_a_directory_is_its_members(workspace: Path, where: str, found: str) -> None:
    """As `uv run` there takes it."""
    (workspace / where).mkdir(parents=True, exist_ok=True)
    assert found_environment(workspace / where) == UvEnvironment(project_dir=str(workspace / found))


def test_no_environment_is_one_of_its_own(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    assert NoEnvironment().named("gpu").provider() == ClusterPython()


def test_the_root_of_a_workspace_goes_to_the_login_node_whole(workspace: Path) -> None:
    recipe = UvRecipe(workspace / "packages/coast", groups=("dev",), build_on_remote=True)
    pack = recipe.pack(target(), print)
    assert "build_with_uv packages/coast --group=dev" in pack.install
    with tarfile.open(fileobj=io.BytesIO(pack.parts[0].fetch())) as archive:  # type: ignore[arg-type]
        assert {"uv.lock", "pyproject.toml", "packages/deep/pyproject.toml"} <= set(archive.getnames())
    keys = [UvRecipe(workspace / of, build_on_remote=True).key_inputs(target()) for of in (".", "packages/coast")]
    assert keys[0] != keys[1]
