"""What a payload is, and which files travel with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dagster_slurm.errors import InvalidRequestError, PayloadNotFoundError
from dagster_slurm.launchers import Payload, payload_from_path, work_files


def file(path: Path, content: str = "x", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("name", "content", "interpreter"),
    [
        ("train.py", "", "python"),
        ("run.sh", "", "bash"),
        ("tool", "#!/usr/bin/env python3\n", None),
        ("tool.pl", "#!/usr/bin/perl\n", None),
        ("binary", "\x7fELF", None),
        ("a b's $(x).py", "", "python"),
    ],
)
def test_kinds(tmp_path: Path, name: str, content: str, interpreter: str | None) -> None:
    source = file(tmp_path / name, content)
    assert payload_from_path(source) == Payload(name, interpreter, source)
    assert payload_from_path(str(source)) == Payload(name, interpreter, source)


@pytest.mark.parametrize("content", ["", "plain text", "# !/bin/sh"])
def test_what_cannot_be_run(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be run") as caught:
        payload_from_path(file(tmp_path / "data.txt", content))
    assert caught.value.hint


def test_a_missing_payload_or_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.py", tmp_path):
        with pytest.raises(PayloadNotFoundError) as caught:
            payload_from_path(path)
        assert str(path) in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize(("remote", "kind"), [("/opt/x.py", "python"), ("/opt/x.sh", "bash"), ("/opt/x", None)])
def test_one_that_lies_on_the_cluster_is_not_looked_for_here(remote: str, kind: str | None) -> None:
    assert payload_from_path("missing.py", remote_path=remote) == Payload(remote, kind, None)


def test_a_relative_remote_path_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="absolute"):
        payload_from_path("x.py", remote_path="x.py")


def test_files_keep_their_names_and_whether_they_can_be_run(tmp_path: Path) -> None:
    payload = payload_from_path(file(tmp_path / "main.py"))
    extra = [file(tmp_path / "data.csv"), str(file(tmp_path / "tool", mode=0o755))]
    entries = work_files(payload, extra)
    assert {entry.name: entry.mode for entry in entries} == {"main.py": 0o700, "data.csv": 0o600, "tool": 0o700}
    assert [entry.source for entry in entries] == [tmp_path / name for name in ("main.py", "data.csv", "tool")]


def test_directories_are_taken_with_all_that_is_in_them(tmp_path: Path) -> None:
    file(tmp_path / "lib" / "a.py")
    file(tmp_path / "lib" / "deep" / "b.py", mode=0o755)
    (tmp_path / "lib" / "empty").mkdir()
    entries = work_files(Payload("/x.py", "python", None), [tmp_path / "lib"])
    assert [(entry.name, entry.mode) for entry in entries] == [("lib/a.py", 0o600), ("lib/deep/b.py", 0o700)]


def test_a_mapping_names_the_files(tmp_path: Path) -> None:
    payload = payload_from_path(file(tmp_path / "main.py"))
    entries = work_files(
        payload, {"conf/settings.yaml": file(tmp_path / "any"), "lib": file(tmp_path / "d" / "a").parent}
    )
    assert [entry.name for entry in entries] == ["main.py", "conf/settings.yaml", "lib/a"]


def test_no_extra_files(tmp_path: Path) -> None:
    assert work_files(Payload("/x.py", "python", None), None) == []
    assert len(work_files(payload_from_path(file(tmp_path / "main.py")), [])) == 1


def test_a_missing_extra_file(tmp_path: Path) -> None:
    with pytest.raises(PayloadNotFoundError, match="extra file"):
        work_files(Payload("/x.py", "python", None), [tmp_path / "missing"])


def test_two_files_of_one_name(tmp_path: Path) -> None:
    payload = payload_from_path(file(tmp_path / "main.py"))
    for extra in ([file(tmp_path / "other" / "main.py")], [file(tmp_path / "a" / "x"), file(tmp_path / "b" / "x")]):
        with pytest.raises(InvalidRequestError, match="Two files") as caught:
            work_files(payload, extra)
        assert "mapping" in str(caught.value)


@pytest.mark.parametrize("one", ["data.csv", Path("data.csv")])
def test_one_path_in_place_of_a_list(one: Any) -> None:
    with pytest.raises(InvalidRequestError, match="a list of files"):
        work_files(Payload("/x.py", "python", None), one)
