"""Directories of this machine that carry secrets are this user's alone, before anything is asked or put there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dagster_slurm.environments import local_store
from dagster_slurm.errors import ConfigurationError, LocalStorageError
from dagster_slurm.transport import SSHConnection
from dagster_slurm.transport.openssh import ControlMaster
from dagster_slurm.transport.pool import ForeignDirectoryError, make_own, refuse_foreign, why_foreign

SSH = """#!/bin/sh
echo "$*" >>"$(dirname "$0")/asked"
"""
NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to somebody else")


def theirs(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)


def written_by_others(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)


def of_a_group(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o770)


def a_link(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir()
    directory.symlink_to("elsewhere")


def a_file(directory: Path) -> None:
    directory.write_text("")


FOREIGN = [pytest.param(theirs, marks=as_root), written_by_others, of_a_group, a_link, a_file]


@pytest.fixture
def umask_000() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_is_there_is_refused_by_name(tmp_path: Path, foreign: Callable[[Path], None]) -> None:
    directory = tmp_path / "it"
    foreign(directory)
    for refuse in (make_own, refuse_foreign):
        with pytest.raises(ForeignDirectoryError, match=str(directory)):
            refuse(directory)
    assert str(directory) in why_foreign(directory)


@pytest.mark.usefixtures("umask_000")
def test_without_a_umask_nobody_else_may_write(tmp_path: Path) -> None:
    """`mkdir(parents=True)` made the directories above with 0777."""
    make_own(tmp_path / "a" / "b" / "c")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")} == {0o700}
    make_own(tmp_path / "a" / "b" / "c")
    assert why_foreign(tmp_path / "a" / "b" / "c") == ""
    assert why_foreign(tmp_path / "missing") == ""


@pytest.mark.usefixtures("umask_000")
def test_the_store_of_packages_is_this_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", str(tmp_path / "cache" / "dagster-slurm"))
    local_store.kept("wheels/x", lambda part: part.write_bytes(b"x") and None)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
    (tmp_path / "cache/dagster-slurm/wheels").chmod(0o777)
    with pytest.raises(LocalStorageError, match="written to by others"):
        local_store.kept("wheels/y", lambda part: part.write_bytes(b"y") and None)


class TestSharedConnection:
    """Through a stranger's socket a stranger is told all that is sent."""

    @pytest.fixture
    def asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """What `ssh` was asked; it says yes to all."""
        programs = tmp_path / "bin"
        programs.mkdir()
        (programs / "ssh").write_text(SSH)
        (programs / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        return programs / "asked"

    @pytest.mark.parametrize("foreign", FOREIGN)
    @pytest.mark.parametrize("use", [ControlMaster.is_alive, ControlMaster.ensure, ControlMaster.start_on_terminal])
    def test_nothing_is_asked_of_it(
        self, tmp_path: Path, asked: Path, foreign: Callable[[Path], None], use: Callable[[ControlMaster], object]
    ) -> None:
        """A socket was asked before its directory was looked at, and one with mode 0777 was taken."""
        directory = tmp_path / "it"
        foreign(directory)
        master = ControlMaster(SSHConnection("login", control_dir=str(directory)))
        with suppress(OSError):
            master.path.write_text("")
        with pytest.raises(ConfigurationError, match=str(directory)) as caught:
            use(master)
        assert "DAGSTER_SLURM_SSH_CONTROL_DIR" in str(caught.value)
        master.end()
        assert not asked.exists()

    def test_one_of_ones_own_is_asked(self, tmp_path: Path, asked: Path) -> None:
        master = ControlMaster(SSHConnection("login", control_dir=str(tmp_path / "own")))
        assert not master.is_alive()
        make_own(tmp_path / "own")
        master.path.write_text("")
        assert master.is_alive()
        assert "-O check" in asked.read_text()
