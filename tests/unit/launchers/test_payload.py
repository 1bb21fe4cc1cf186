"""What a payload is, and which files travel with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm.errors import InvalidRequestError, PayloadNotFoundError
from dagster_slurm.launchers import Payload, payload_from_path, work_files
from dagster_slurm.staging import DataOptions, plan_staging


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


def directory(path: Path, *names: str) -> Path:
    for name in names:
        file(path / name)
    return path


@pytest.mark.parametrize(
    ("name", "files", "form"),
    [
        ("prepare", ["__main__.py"], "path"),
        ("prepare.v2", ["__main__.py"], "path"),
        ("-x", ["__main__.py", "other.py"], "path"),
        ("prepare", ["__init__.py", "__main__.py"], "module"),
        ("my-package", ["__init__.py", "__main__.py"], "module"),
    ],
)
def test_directories_that_python_runs(tmp_path: Path, name: str, files: list[str], form: Any) -> None:
    source = directory(tmp_path / name, *files)
    assert payload_from_path(source) == Payload(name, "python", source, form)
    assert payload_from_path(f"{source}/") == Payload(name, "python", source, form)


def test_a_directory_without_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory(tmp_path / "prepare" / "deep", "x")
    directory(tmp_path / "prepare", "__main__.py")
    monkeypatch.chdir(tmp_path / "prepare")
    assert payload_from_path(".").program == "prepare"
    monkeypatch.chdir(tmp_path / "prepare" / "deep")
    assert payload_from_path("..").program == "prepare"


def test_a_package_without_a_main_module(tmp_path: Path) -> None:
    with pytest.raises(PayloadNotFoundError, match="without `__main__") as caught:
        payload_from_path(directory(tmp_path / "package", "__init__.py"))
    assert caught.value.hint


def test_a_package_that_python_could_not_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="a dot") as caught:
        payload_from_path(directory(tmp_path / "package.v2", "__init__.py", "__main__.py"))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "program", "form"),
    [
        ("-m package", "package", "module"),
        ("-m package.module", "package.module", "module"),
        ("-m  _a1.b_2", "_a1.b_2", "module"),
        ("package.module:function", "package.module:function", "function"),
        ("jobs:Fit.main", "jobs:Fit.main", "function"),
        ("C:run", "C:run", "function"),
    ],
)
def test_what_python_finds_by_its_name(text: str, program: str, form: Any) -> None:
    assert payload_from_path(text) == Payload(program, "python", None, form)


@pytest.mark.parametrize(
    "text",
    [
        *("", "package.module", "-m", "-m ", "-m a b", "-m a-b", "-m a.", "-m .a", "-m a:b", "-ma", "--m a", "-m a\n"),
        *("a:", ":a", "a:b:c", "a.:b", "a:.b", "a/b:c", "1a:b", "a:1b", "a:b()", "a: b", "a:b\n", "a:b;c", "é:b"),
        *("a:lambda", "import:a", "a.class.b:c", "-m a.class"),
    ],
)
def test_what_is_neither_a_file_nor_such_a_name(text: str) -> None:
    with pytest.raises(PayloadNotFoundError) as caught:
        payload_from_path(text)
    assert caught.value.hint


def test_the_hint_names_the_forms() -> None:
    with pytest.raises(PayloadNotFoundError) as caught:
        payload_from_path("a/b:c")
    for form in ("__file__", "__main__.py", "-m package.module", "package.module:function"):
        assert form in str(caught.value.hint)


@pytest.mark.parametrize("name", ["C:train.py", "jobs:main.py", "-m train.py"])
def test_a_file_that_is_there_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert payload_from_path(name) == Payload(name, "python", Path(name))


@pytest.mark.parametrize("name", ["-m package", "jobs:main"])
def test_a_path_is_never_a_name(name: str) -> None:
    with pytest.raises(PayloadNotFoundError):
        payload_from_path(Path(name))


@pytest.mark.parametrize(("remote", "kind"), [("/opt/x.py", "python"), ("/opt/x.sh", "bash"), ("/opt/x", None)])
def test_one_that_lies_on_the_cluster_is_not_looked_for_here(remote: str, kind: str | None) -> None:
    assert payload_from_path("missing.py", remote_path=remote) == Payload(remote, kind, None)


@pytest.mark.parametrize(
    ("remote", "program"),
    [("x.py", "~/x.py"), ("./x.py", "~/x.py"), ("~/x.py", "~/x.py"), ("$WORK/x.py", "$WORK/x.py")],
)
def test_the_login_says_where_a_remote_path_leads(remote: str, program: str) -> None:
    payload = payload_from_path("x.py", remote_path=remote)
    assert payload == Payload(program, "python", None)
    assert payload.has_path_there


def test_no_remote_path_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="remote_payload_path is empty"):
        payload_from_path("x.py", remote_path=" ")


@pytest.mark.parametrize("payload", [Payload("main.py", "python", None), Payload("~a", None, Path("~a"))], ids=str)
def test_what_is_in_the_working_directory_has_no_path_there(payload: Payload) -> None:
    assert not payload.has_path_there


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


def test_a_payload_that_is_a_directory_leaves_its_byte_code_here(tmp_path: Path) -> None:
    source = directory(tmp_path / "p", "__main__.py", "a.pyc", "__pycache__/a.cpython-311.pyc", "d/__pycache__/note")
    file(source / "d" / "tool", mode=0o755)
    file(source / "data.bin", mode=0o600)
    payload = payload_from_path(source)
    assert [(entry.name, entry.source, entry.mode) for entry in work_files(payload, None)] == [
        ("p/__main__.py", source / "__main__.py", 0o600),
        ("p/d/tool", source / "d" / "tool", 0o700),
        ("p/data.bin", source / "data.bin", 0o600),
    ]


@pytest.mark.parametrize("text", ["-m package", "jobs:main"])
def test_what_python_finds_is_not_uploaded(tmp_path: Path, text: str) -> None:
    assert work_files(payload_from_path(text), None) == []
    assert [entry.name for entry in work_files(payload_from_path(text), [file(tmp_path / "jobs.py")])] == ["jobs.py"]


def test_links_to_directories_are_followed_once(tmp_path: Path) -> None:
    payload = directory(tmp_path / "p", "__main__.py")
    directory(tmp_path / "shared", "a.py")
    (payload / "lib").symlink_to(tmp_path / "shared")
    (payload / "myself").symlink_to(payload)
    (tmp_path / "shared" / "back").symlink_to(payload)
    for entries in (work_files(payload_from_path(payload), None), work_files(Payload("/x", None, None), [payload])):
        assert [entry.name for entry in entries] == ["p/__main__.py", "p/lib/a.py"]


def test_files_can_be_put_into_a_directory_of_the_payload(tmp_path: Path) -> None:
    payload = payload_from_path(directory(tmp_path / "p", "__main__.py"))
    entries = work_files(payload, {"p/settings.yaml": file(tmp_path / "any")})
    assert [entry.name for entry in entries] == ["p/__main__.py", "p/settings.yaml"]


@pytest.mark.parametrize("name", ["p", "p/__main__.py", "p/__main__.py/x", "p/lib"])
def test_a_name_that_the_directory_of_the_payload_has(tmp_path: Path, name: str) -> None:
    payload = payload_from_path(directory(tmp_path / "p", "__main__.py", "lib/a.py"))
    with pytest.raises(InvalidRequestError, match="Two files") as caught:
        work_files(payload, {name: file(tmp_path / "any")})
    assert "mapping" in str(caught.value)


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../../x", "a//x", "./x", "a/"])
def test_a_name_outside_of_the_working_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="not a name in the working directory") as caught:
        work_files(Payload("/x.py", "python", None), {name: file(tmp_path / "any")})
    assert caught.value.hint


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


@pytest.mark.parametrize("name", ["run.sh", "run"])
def test_a_script_with_the_line_ends_of_windows_is_refused_before_it_is_sent(tmp_path: Path, name: str) -> None:
    """The job failed, with "bad interpreter" or a message about $'\\r'."""
    (tmp_path / name).write_bytes(b"#!/bin/bash\r\necho 1\r\n")
    with pytest.raises(InvalidRequestError, match="as on Windows"):
        payload_from_path(tmp_path / name)
    (tmp_path / "run.py").write_bytes(b"#!/usr/bin/env python\r\nprint(1)\r\n")
    assert payload_from_path(tmp_path / "run.py").interpreter == "python"


@pytest.mark.parametrize("kind", ["dangling", "fifo"])
def test_nothing_in_a_directory_is_left_out_without_a_word(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "job"
    directory.mkdir()
    (directory / "__main__.py").write_text("")
    (directory / ".#edited.py").symlink_to("me@here.4711:1")
    odd = directory / "odd"
    odd.symlink_to("nowhere") if kind == "dangling" else os.mkfifo(odd)
    for taken in (
        lambda: work_files(payload_from_path(directory), None),
        lambda: work_files(payload_from_path("-m json"), [directory]),
        lambda: plan_staging(DataOptions(inputs=[directory])),
    ):
        with pytest.raises(InvalidRequestError, match=str(odd)):
            taken()
    odd.unlink()
    assert [entry.name for entry in work_files(payload_from_path(directory), None)] == ["job/__main__.py"]
