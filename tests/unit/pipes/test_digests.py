"""By what a payload is known again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm import MPILauncher
from dagster_slurm.cluster.description import Description
from dagster_slurm.launchers import Payload, payload_from_path, work_files
from dagster_slurm.pipes.launch_key import differences, digests
from dagster_slurm.slurm.request import merge
from dagster_slurm.work.spec import WorkSpec


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """As told from what `launch.json` keeps."""
    return differences(Description.from_json(Description(digests=before).to_json()), after)


def of(payload: Payload, **facts: Any) -> dict[str, str]:
    """The digests of a payload with what else is said of it."""
    return digests(replace(WorkSpec.of(payload), **facts))


def test_what_else_makes_it_another_deploy(tmp_path: Path) -> None:
    path = tmp_path / "a.sh"
    path.write_text("echo")
    payload = payload_from_path(path)
    same = of(payload)
    assert changes(same, of(payload)) == []
    table = tmp_path / "table.csv"
    table.write_text("1,2")
    files = tuple(work_files(payload, {"table.csv": table, "again.csv": table}))
    with_files = of(payload, files=files)
    assert changes(same, with_files) == ["one of `extra_files`"]
    assert changes(with_files, of(payload, files=files[::-1])) == []
    table.write_text("1,3")
    assert changes(with_files, of(payload, files=files)) == ["one of `extra_files`"]
    assert changes(same, of(payload, extras={"n": 1})) == ["`extras`"]
    assert changes(same, of(payload, extra_env={"N": "1"})) == ["`extra_env`"]
    assert changes(same, of(payload, plan=MPILauncher().plan)) == ["the launcher"]
    assert changes(same, of(payload, request=merge({"cpus_per_task": 2}))) == ["what is asked of Slurm"]


def test_what_an_earlier_release_has_not_noted_does_not_differ(tmp_path: Path) -> None:
    path = tmp_path / "a.sh"
    path.write_text("echo")
    now = of(payload_from_path(path), extras={"n": 1})
    before = {name: now[name] for name in ("payload", "options", "environment")}
    assert changes(before, now) == []
    assert changes({**before, "inputs": "x"}, now) == ["what it reads as inputs"]


def digest(payload: Payload) -> str:
    return of(payload)["payload"]


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
