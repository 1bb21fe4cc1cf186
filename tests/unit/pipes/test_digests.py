"""By what a payload is known again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_slurm.launchers import Payload, payload_from_path
from dagster_slurm.pipes.launch_key import digests
from dagster_slurm.slurm.request import merge


def digest(payload: Payload) -> str:
    return digests(payload, merge({}), "")["payload"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    directory = tmp_path / "package"
    (directory / "lib").mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("__main__.py", "import package.lib.a"), ("lib/a.py", "x = 1")):
        (directory / name).write_text(text)
    return directory


@pytest.mark.parametrize(
    "change",
    [
        lambda package: (package / "lib" / "a.py").write_text("x = 2"),
        lambda package: (package / "lib" / "a.py").rename(package / "lib" / "b.py"),
        lambda package: (package / "lib" / "a.py").rename(package / "a.py"),
        lambda package: (package / "empty").touch(),
        lambda package: (package / "__init__.py").unlink(),
    ],
)
def test_what_makes_a_directory_another_payload(package: Path, change: Callable[[Path], object]) -> None:
    before = digest(payload_from_path(package))
    change(package)
    assert digest(payload_from_path(package)) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda package: None,
        lambda package: (package / "a.pyc").touch(),
        lambda package: (package / "empty").mkdir(),
        lambda package: (package / "lib" / "a.py").touch(),
    ],
)
def test_what_leaves_it_the_same(package: Path, change: Callable[[Path], object]) -> None:
    before = digest(payload_from_path(package))
    change(package)
    assert digest(payload_from_path(package)) == before


def test_what_is_not_uploaded_is_known_by_its_name() -> None:
    named = [payload_from_path(text) for text in ("-m jobs", "-m jobs.main", "jobs:main", "jobs:other")]
    named += [payload_from_path("x", remote_path="/opt/jobs")]
    assert len({digest(payload) for payload in named}) == len(named)
    assert digest(named[0]) == digest(payload_from_path("-m  jobs"))


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("print(1)")
    same = digest(payload_from_path(tmp_path / "a.py"))
    assert digest(payload_from_path(tmp_path / "b.py")) == same
    (tmp_path / "b.py").write_text("print(2)")
    assert digest(payload_from_path(tmp_path / "b.py")) != same
