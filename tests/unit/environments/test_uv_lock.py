"""Which wheels of a lock are chosen: for the target's platform and Python, not for this machine's."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.environments.target import MACHINES, Program, Python, Target, platform_tags, target_of
from dagster_slurm.environments.uv_lock import Choice, LocalProject, Selection, locked_names, select
from dagster_slurm.errors import InterpreterNotFoundError, InvalidRequestError, WheelNotFoundError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# As uv writes it; shortened, with another index.
LOCK = """
version = 1
revision = 3
requires-python = ">=3.10"
resolution-markers = ["python_full_version >= '3.11'", "python_full_version < '3.11'"]

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
    { url = "https://index.invalid/a/numpy-1.26.4-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", hash = "sha256:a1", size = 10 },
]

[[package]]
name = "numpy"
version = "2.4.1"
source = { registry = "https://index.invalid/simple" }
resolution-markers = ["python_full_version >= '3.11'"]
wheels = [
    { url = "https://index.invalid/b/numpy-2.4.1-cp311-cp311-macosx_14_0_arm64.whl", hash = "sha256:b0", size = 1 },
    { url = "https://index.invalid/b/numpy-2.4.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", hash = "sha256:b1", size = 2 },
    { url = "https://index.invalid/b/numpy-2.4.1-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", hash = "sha256:b2", size = 3 },
    { url = "https://index.invalid/b/numpy-2.4.1-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", hash = "sha256:b3", size = 4 },
    { url = "https://index.invalid/b/numpy-2.4.1-cp311-cp311-musllinux_1_2_x86_64.whl", hash = "sha256:b4", size = 5 },
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
    { url = "https://index.invalid/p/pandas-3.0.0-cp39-abi3-manylinux2014_x86_64.whl", hash = "sha256:c1", size = 6 },
    { url = "https://index.invalid/p/pandas-3.0.0-cp39-abi3-manylinux2014_aarch64.whl", hash = "sha256:c2", size = 6 },
]

[package.optional-dependencies]
excel = [{ name = "openpyxl" }]

[[package]]
name = "openpyxl"
version = "3.1.5"
source = { registry = "https://index.invalid/simple" }
wheels = [{ url = "https://index.invalid/o/openpyxl-3.1.5-py2.py3-none-any.whl", hash = "sha256:d1", size = 7 }]

[[package]]
name = "oldstyle"
version = "0.3"
source = { registry = "https://index.invalid/simple" }
sdist = { url = "https://index.invalid/s/oldstyle-0.3.tar.gz", hash = "sha256:e1", size = 8 }

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
wheels = [{ url = "https://gpu.invalid/t/torch-2.9-cp311-cp311-manylinux_2_28_x86_64.whl", hash = "sha256:f1", size = 9 }]

[[package]]
name = "torch"
version = "2.9+cpu"
source = { registry = "https://cpu.invalid/simple" }
wheels = [{ url = "https://cpu.invalid/t/torch-2.9%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl", hash = "sha256:f2", size = 9 }]

[[package]]
name = "tzdata"
version = "2026.1"
source = { registry = "https://index.invalid/simple" }
wheels = [{ url = "https://index.invalid/z/tzdata-2026.1-py2.py3-none-any.whl", hash = "sha256:99", size = 1 }]
"""  # noqa: E501 - lines as uv writes them

NUMPY = "numpy-2.4.1-cp311-cp311-manylinux_2_27_{0}.manylinux_2_28_{0}.whl"
PANDAS = "pandas-3.0.0-cp39-abi3-manylinux2014_{0}.whl"


def target(
    platform: str = "linux-64", version: tuple[int, int, int] = (3, 11, 2), glibc: tuple[int, int] | None = (2, 36)
) -> Target:
    return Target(platform, Python("/usr/bin/python3", version, glibc))


def chosen(of: Target, *extras: str, groups: tuple[str, ...] = ()) -> Selection:
    return select(tomllib.loads(LOCK), Choice("tides", extras, groups), of)


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
def test_the_best_wheel_for_the_target(of: Target, expected: list[str]) -> None:
    assert names(chosen(of)) == expected


def test_projects_of_this_machine_are_built() -> None:
    assert chosen(target()).projects == (LocalProject("coast", "coast"),)


def test_extras_groups_and_extras_of_dependencies() -> None:
    assert "openpyxl-3.1.5-py2.py3-none-any.whl" not in names(chosen(target()))
    assert "openpyxl-3.1.5-py2.py3-none-any.whl" in names(chosen(target(), "sheets"))
    assert "openpyxl-3.1.5-py2.py3-none-any.whl" in names(chosen(target(), groups=("dev",)))


@pytest.mark.parametrize(
    ("extra", "url"),
    [("cpu", "https://cpu.invalid/t/torch-2.9%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl"), ("gpu", None)],
)
def test_extras_that_exclude_each_other(extra: str, url: str | None) -> None:
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
        (target(), {"groups": ("tests",)}, InvalidRequestError, r"no dependency group 'tests'"),
    ],
)
def test_refused(of: Target, options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        chosen(of, **options)


@pytest.mark.parametrize(
    ("extras", "groups", "more"),
    [
        ((), (), set()),
        (("sheets",), (), {"openpyxl"}),
        (("cpu",), (), {"torch"}),
        ((), ("dev", "old"), {"openpyxl", "oldstyle"}),
        (("none",), ("none",), set()),
    ],
)
def test_names_for_whatever_target(extras: tuple[str, ...], groups: tuple[str, ...], more: set[str]) -> None:
    found = locked_names(tomllib.loads(LOCK), Choice("tides", extras, groups))
    assert found == {"tides", "pandas", "coast", "numpy", "tzdata"} | more


def test_what_is_not_a_lock_that_is_known() -> None:
    with pytest.raises(InvalidRequestError, match="version 2 is not known"):
        select({"version": 2}, Choice("tides"), target())
    with pytest.raises(InvalidRequestError, match="does not have the project 'waves'"):
        select(tomllib.loads(LOCK), Choice("waves"), target())


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
