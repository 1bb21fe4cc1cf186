"""Where the processes of a user share what the cluster has answered."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from dagster_slurm.cluster.shared import SharedDirectory
from dagster_slurm.job import connection
from dagster_slurm.job.questions import Question
from dagster_slurm.slurm.output import QueueEntry
from dagster_slurm.transport import SSHConnection

ALICE = SSHConnection("login", user="alice")


def place(ssh: SSHConnection | None) -> Path:
    return connection._shared_place(ssh)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return tmp_path / f"dagster-slurm-{os.getuid()}"


@pytest.mark.parametrize(
    "other",
    [
        None,
        SSHConnection("login", user="bob"),
        SSHConnection("login", user="alice", port=2222),
        SSHConnection("login", user="alice", key_path="/keys/of/bob"),
        SSHConnection("login", user="alice", post_login_command="ssh inner {cmd}"),
        SSHConnection("login", user="alice", jump=SSHConnection("gate")),
        SSHConnection("login", user="alice", control_dir="/elsewhere"),
    ],
)
def test_only_who_gets_there_alike_shares(other: SSHConnection | None, temporary: Path) -> None:
    assert place(ALICE).parent == temporary
    assert place(ALICE) == place(SSHConnection("login", user="alice", password="secret"))
    assert place(ALICE) != place(other)


def test_on_the_login_node_another_configuration_is_another_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = place(None)
    monkeypatch.setenv("SLURM_CONF", "/etc/other/slurm.conf")
    assert place(None) != usual


def test_nothing_is_removed_behind_a_link(temporary: Path, tmp_path: Path) -> None:
    """A stranger's link below /tmp had directories of the user's own removed."""
    own = tmp_path / "own" / "answers-of-the-user"
    own.mkdir(parents=True)
    os.utime(own, (time.time() - 8 * 86400,) * 2)
    temporary.symlink_to(own.parent)
    place(ALICE)
    assert own.exists()


def test_a_strangers_answers_are_not_read(temporary: Path) -> None:
    """The age of the last question was read before it was looked whose directory it is: a FIFO there for ever."""
    shared = SharedDirectory(temporary / "answers-x.queue")
    shared.path.mkdir(parents=True)
    shared.path.chmod(0o777)
    os.mkfifo(shared.path / "answer")
    question = Question(lambda ids: {}, QueueEntry, shared, clock=shared.now)
    assert question.age() == float("inf")
    question.want(["1"])
    assert [path.name for path in shared.path.iterdir()] == ["answer"]


def test_what_nobody_uses_is_removed(temporary: Path) -> None:
    for name, days in (("answers-a.queue", 8), ("answers-b.queue", 6), ("socket", 8)):
        (temporary / name).mkdir(parents=True, mode=0o700)
        (temporary / name / "answer").touch()
        os.utime(temporary / name, (time.time() - days * 86400,) * 2)
    place(ALICE)
    assert sorted(file.name for file in temporary.iterdir()) == ["answers-b.queue", "socket", "swept"]


def test_it_is_looked_for_once_an_hour(temporary: Path) -> None:
    """Of a user whose clusters come and go there are thousands, and every process would look at them all."""
    temporary.mkdir(mode=0o700)
    place(ALICE)
    old = temporary / "answers-a.queue"
    old.mkdir()
    os.utime(old, (time.time() - 8 * 86400,) * 2)
    place(ALICE)
    assert old.exists()
    os.utime(temporary / "swept", (time.time() - 3601,) * 2)
    place(ALICE)
    assert not old.exists()
