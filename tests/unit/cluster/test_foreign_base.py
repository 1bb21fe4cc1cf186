"""A `remote_base` that others use as well: what is somebody else's is not used."""

from __future__ import annotations

import os
from collections.abc import Callable
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
