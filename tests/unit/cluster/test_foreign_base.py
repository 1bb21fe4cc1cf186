"""A `remote_base` that others use as well: what is somebody else's is not used."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.launches import created
from tests.support.slurm_programs import Slurm

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.look import Ask, look
from dagster_slurm.cluster.slurm_cluster import foreign_part
from dagster_slurm.errors import RemoteStorageError
from dagster_slurm.housekeeping.listed_jobs import snapshot
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import merge
from dagster_slurm.transport import LocalTransport

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to somebody else")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("7 700 directory/runs", ""),
        ("7 2770 directory/runs", ""),
        ("7 755 directory/data", ""),
        ("7 777 symbolic link/runs", ""),
        ("7 777 directory/runs", "everybody may write to 'runs' (mode 0777)"),
        ("7 1777 directory/data", "everybody may write to 'data' (mode 01777)"),
        ("8 700 directory/env-cache", "'env-cache' belongs to somebody else, the user with the number 8"),
        ("8 777 symbolic link/runs", "'runs' belongs to somebody else, the user with the number 8"),
        ("", "'' belongs to somebody else, the user with the number "),
    ],
)
def test_whose_it_is(line: str, why: str) -> None:
    assert foreign_part(line, "7") == why


def theirs(path: Path) -> None:
    path.mkdir(parents=True)
    os.chown(path, NOBODY, NOBODY)


def written_by_all(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o777)


def a_link_of_theirs(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("/")
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


WAYS: dict[str, Callable[[SlurmCluster], object]] = {
    "run": lambda cluster: look(cluster, [RunDirectory(cluster.base(), "run", "key")], ask=Ask.JOBS),
    "check": lambda cluster: cluster.check(merge({})),
    "jobs and clean": lambda cluster: snapshot(cluster, is_open=lambda job: False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["runs", "env-cache", "data", "assets", "results"])
@pytest.mark.parametrize(
    "foreign", [pytest.param(theirs, marks=as_root), written_by_all, pytest.param(a_link_of_theirs, marks=as_root)]
)
def test_it_is_refused_by_name_before_anything_is_put_there(
    cluster: SlurmCluster, slurm: Slurm, way: str, name: str, foreign: Callable[[Path], None]
) -> None:
    """Its owner could rename a run's directory, and have the job of this user run another script."""
    foreign(Path(cluster.base(), name))
    with pytest.raises(RemoteStorageError, match=repr(name)) as caught:
        WAYS[way](cluster)
    assert "remote_base of your own" in str(caught.value)
    assert slurm.asked() == []
    assert [path.name for path in Path(cluster.base()).iterdir()] == [name]


def test_ones_own_is_used_also_behind_a_link(cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    Path(cluster.base()).mkdir()
    Path(cluster.base(), "runs").symlink_to(tmp_path / "scratch")
    directory = created(cluster)
    assert look(cluster, [directory], ask=Ask.JOBS).listing.newest(directory)


@dataclass(frozen=True)
class Way:
    """Directories that lead to a base: each with its owner, or None for this user, and its mode."""

    parts: tuple[tuple[str, int | None, int], ...]
    why: str

    def make(self, root: Path) -> Path:
        root.chmod(0o755)
        for name, owner, mode in self.parts:
            root = root / name
            root.mkdir()
            root.chmod(mode)
            if owner is not None:
                os.chown(root, owner, owner)
        return root


PI = 12345
WAYS_TO_BASE = {
    "a directory of one's own in one that a group shares": Way((("group", PI, 0o2770), ("me", None, 0o700)), ""),
    "the same, sticky": Way((("group", PI, 0o3770), ("me", None, 0o2750)), ""),
    "one that somebody else has made": Way((("group", PI, 0o2770), ("me", NOBODY, 0o777)), "belongs to somebody else"),
    "one of the owner of the directory": Way((("group", PI, 0o755), ("runs", PI, 0o2777)), "belongs to somebody else"),
    "in one that somebody else has made": Way(
        (("group", PI, 0o1777), ("me", NOBODY, 0o755), ("runs", None, 0o700)), "me lies where others can write"
    ),
    "the same where the group can write": Way(
        (("group", PI, 0o3770), ("me", NOBODY, 0o755), ("runs", None, 0o700)), "me lies where others can write"
    ),
    "one of a member of a group that is trusted": Way(
        (("group", PI, 0o2770), ("project", NOBODY, 0o2770), ("me", None, 0o700)), ""
    ),
    "of the owner of the directory above": Way(
        (("group", PI, 0o1777), ("project", PI, 0o755), ("me", None, 0o700)), ""
    ),
    "one that everybody may write to": Way((("me", None, 0o777),), "everybody may write to"),
    "one that is sticky": Way((("me", None, 0o1777),), ""),
}


@as_root
@pytest.mark.parametrize("way", WAYS_TO_BASE.values(), ids=WAYS_TO_BASE)
def test_what_leads_to_the_base(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    monkeypatch.setenv("PATH", f"{slurm.directory}:{os.environ['PATH']}")
    base = way.make(tmp_path)
    with closing(LocalTransport(channels=1)) as transport:
        cluster = SlurmCluster(transport, remote_base=str(base))
        assert (way.why in cluster.facts().foreign) if way.why else not cluster.facts().foreign
        if way.why:
            with pytest.raises(RemoteStorageError, match=re.escape("/share/group/$USER")):
                cluster.check(merge({}))


@as_root
@pytest.mark.parametrize("is_theirs", [False, True])
def test_a_link_on_the_way(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_theirs: bool) -> None:
    """Who has made it can have it lead somewhere else later."""
    monkeypatch.setenv("PATH", f"{slurm.directory}:{os.environ['PATH']}")
    shared, own = tmp_path / "shared", tmp_path / "own"
    own.mkdir(mode=0o700)
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "me").symlink_to(own)
    if is_theirs:
        os.chown(shared / "me", NOBODY, NOBODY, follow_symlinks=False)
    with closing(LocalTransport(channels=1)) as transport:
        foreign = SlurmCluster(transport, remote_base=f"{shared}/me/runs").facts().foreign
    assert foreign == (
        f"{shared}/me lies where others can write, and belongs to the user with the number {NOBODY}"
        if is_theirs
        else ""
    )


@as_root
def test_a_link_leads_where_others_can_write(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{slurm.directory}:{os.environ['PATH']}")
    theirs(tmp_path / "open" / "theirs" / "runs")
    (tmp_path / "open").chmod(0o777)
    os.chown(tmp_path / "open" / "theirs", NOBODY, NOBODY)
    (tmp_path / "base").symlink_to(tmp_path / "open" / "theirs")
    with closing(LocalTransport(channels=1)) as transport:
        assert "theirs" in SlurmCluster(transport, remote_base=str(tmp_path / "base")).facts().foreign


@as_root
def test_an_environment_that_the_group_may_read() -> None:
    """By another user of the group, who can run it and not change it; whoever is not of the group sees nothing."""
    # A directory that all users can pass through, other than those of pytest.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o711)
        _try_as_another_user(Path(place, "base"))


def _try_as_another_user(base: Path) -> None:
    entry = base / "env-cache" / "key.1"
    (entry / "env" / "bin").mkdir(parents=True)
    (base / "runs").mkdir(mode=0o700)
    (entry / "activate.sh").write_text("echo activated\n")
    (entry / "env" / "bin" / "python").symlink_to("/usr/bin/python3")
    (entry / "env" / "run").write_text("#!/bin/sh\necho ran\n")
    (entry / "env" / "run").chmod(0o700)
    (entry / "env" / "loose").write_text("")
    for path in (base, base / "env-cache", entry, *entry.rglob("*")):
        if not path.is_symlink():
            os.chown(path, 0, PI)
            path.chmod(0o700 if path.is_dir() or path.name == "run" else 0o600)
    (entry / "env" / "loose").chmod(0o666)
    with closing(LocalTransport(channels=1)) as transport:
        cluster = SlurmCluster(transport, remote_base=str(base))
        assert cluster.script("environment_share", (f"{base}/env-cache", "key.1")).returncode == 0

    def tried(group: int, command: str) -> int:
        argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={group}", "--clear-groups", "sh", "-c", command]
        return subprocess.run(argv, cwd=entry, capture_output=True, check=False).returncode

    reads = f"cat {entry}/activate.sh && {entry}/env/run"
    assert tried(PI, reads) == 0
    for attack in (
        f"echo >>{entry}/activate.sh",
        f"echo >{entry}/env/loose",
        f"touch {entry}/env/new",
        f"mv {entry} {entry}.away",
        f"touch {base}/env-cache/new",
        f"mkdir {base}/other",
        f"ls {base}/runs",
        f"ls {base}",
    ):
        assert tried(PI, attack) != 0, attack
    assert tried(NOBODY, reads) != 0
