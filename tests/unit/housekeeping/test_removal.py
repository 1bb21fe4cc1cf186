"""sizes.sh and `clean`, run by the shell of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.launches import KEY, RUN, adopted, aged, claimed, created

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.look import look_at_all
from dagster_slurm.housekeeping.leftovers import remove, sizes_kib
from dagster_slurm.transport import LocalTransport


@pytest.fixture(scope="module")
def transport() -> Iterator[LocalTransport]:
    transport = LocalTransport(channels=1)
    yield transport
    transport.close()


@pytest.fixture
def cluster(transport: LocalTransport, tmp_path: Path) -> SlurmCluster:
    return SlurmCluster(transport, remote_base=str(tmp_path / "base it's"))


def orders_of(cluster: SlurmCluster) -> list[str]:
    return [f"launch {launch.path} {launch.state}" for launch in look_at_all(cluster).launches]


def paths(cluster: SlurmCluster) -> list[str]:
    base = Path(cluster.base())
    return sorted(str(path.relative_to(base)) for path in base.rglob("*"))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_sizes(cluster: SlurmCluster) -> None:
    directory = created(cluster)
    found = sizes_kib(cluster, [f"runs/{directory.run}/{directory.key}", "runs/none"])
    (kib,) = found.values()
    assert (list(found), kib >= 40) == ([f"runs/{directory.run}/{directory.key}"], True)
    assert sizes_kib(cluster, []) == {}


class TestRemoval:
    """clean.sh: what is still as it was listed."""

    def test_a_launch_with_its_links(self, cluster: SlurmCluster) -> None:
        claimed(created(cluster, asset="aaa"))
        created(cluster, attempt=1, asset="bbb")
        other = created(cluster, "other", asset="ccc")
        assert remove(cluster, orders_of(cluster)[:1]) == ()
        assert [path for path in paths(cluster) if RUN in path] == []
        assert names_in(Path(cluster.base(), "assets")) == ["ccc"]
        assert Path(other.path).exists()

    def test_read_only_directories(self, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        Path(directory.work).chmod(0o500)
        assert remove(cluster, orders_of(cluster)) == ()
        assert paths(cluster) == ["runs"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda directory: claimed(directory, 0),
            lambda directory: Path(directory.claim(0)).mkdir(parents=True),
            lambda directory: Path(directory.launch, "1").mkdir(),
            lambda directory: Path(directory.launch, "1.part.7").mkdir(),
            lambda directory: Path(directory.launch, "1").symlink_to("../../other/key/0"),
        ],
    )
    def test_what_has_changed_since_stays(self, cluster: SlurmCluster, change: object) -> None:
        directory = created(cluster)
        orders = orders_of(cluster)
        assert callable(change)
        change(directory)
        before = paths(cluster)
        assert remove(cluster, orders) == (f"launch {RUN}/{KEY}",)
        assert paths(cluster) == before

    def test_a_gate_that_was_taken_since_keeps_it(self, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        claimed(directory)
        orders = orders_of(cluster)
        Path(directory.claim(0), "gate").symlink_to("17")
        assert remove(cluster, orders) == (f"launch {RUN}/{KEY}",)

    def test_a_claim_in_the_last_moment_is_in_the_way(
        self, cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As if it came between the comparison and the closing.
        directory = created(cluster)
        orders = orders_of(cluster)
        (tmp_path / "bin").mkdir()
        mkdir = tmp_path / "bin" / "mkdir"
        mkdir.write_text(f'#!/bin/sh\n{shutil.which("mkdir")} "$@"\n{shutil.which("mkdir")} "$2/0"\n')
        mkdir.chmod(0o755)
        monkeypatch.setenv("PATH", f"{mkdir.parent}:{os.environ['PATH']}")
        transport = LocalTransport(channels=1)
        other = SlurmCluster(transport, remote_base=cluster.base())
        assert remove(other, orders) == (f"launch {RUN}/{KEY}",)
        transport.close()
        assert Path(directory.script).exists()

    def test_adopted_links_alone(self, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        other = Path(adopted(cluster, directory).launch)
        assert remove(cluster, orders_of(cluster)[1:]) == ()
        assert not other.parent.exists()
        assert Path(directory.script).exists()

    def test_half_made_uploads_of_yesterday(self, cluster: SlurmCluster) -> None:
        launch = Path(cluster.base(), "runs", RUN, KEY)
        for name in ("0.part.1", "0.part.2"):
            (launch / name / "work").mkdir(parents=True)
        (launch / ".dagster-slurm.0a.part").write_text("x")
        aged(launch / "0.part.1")
        aged(launch / ".dagster-slurm.0a.part")
        names = ("0.part.1", "0.part.2", ".dagster-slurm.0a.part", "0.part.3")
        left = remove(cluster, [f"part {RUN}/{KEY}/{name}" for name in names])
        assert left == (f"part {RUN}/{KEY}/0.part.2", f"part {RUN}/{KEY}/0.part.3")
        assert names_in(launch) == ["0.part.2"]

    def test_the_last_half_made_upload_takes_its_directories_along(self, cluster: SlurmCluster) -> None:
        part = Path(cluster.base(), "runs", RUN, KEY, "0.part.1")
        part.mkdir(parents=True)
        aged(part)
        assert remove(cluster, [f"part {RUN}/{KEY}/0.part.1"]) == ()
        assert paths(cluster) == ["runs"]

    def test_links_and_empty_directories(self, cluster: SlurmCluster) -> None:
        directory = created(cluster, asset="bbb")
        shutil.rmtree(created(cluster, "gone", asset="aaa").launch)
        Path(cluster.base(), "runs", "none", "key").mkdir(parents=True)
        orders = ["link aaa", "link bbb", "empty gone", "empty none/key", f"empty {RUN}", "else x"]
        assert remove(cluster, orders) == ("link bbb", f"empty {RUN}", "else x")
        assert names_in(Path(cluster.base(), "runs")) == [RUN]
        assert Path(directory.script).exists()

    def test_what_was_half_removed_is_a_half_made_upload(self, cluster: SlurmCluster) -> None:
        created(cluster)
        launch = Path(cluster.base(), "runs", RUN, KEY)
        (launch / "0").rename(launch / "0.part.4711")
        (found,) = look_at_all(cluster).launches
        assert (list(found.half_made), found.attempts) == (["0.part.4711"], ())

    def test_gone_already(self, cluster: SlurmCluster) -> None:
        created(cluster)
        orders = orders_of(cluster)
        assert remove(cluster, orders) == remove(cluster, orders) == ()

    def test_it_never_leaves_its_directory(self, cluster: SlurmCluster, tmp_path: Path) -> None:
        # Names with white space, or that lead elsewhere, are not listed; a link that does is not followed.
        outside = tmp_path / "outside"
        (outside / "0").mkdir(parents=True)
        (Path(cluster.base()) / "runs" / RUN).mkdir(parents=True)
        (Path(cluster.base()) / "runs" / RUN / KEY).symlink_to(outside)
        listing = look_at_all(cluster)
        assert (listing.launches, listing.empty_runs) == ((), {})
        remove(cluster, [f"launch {RUN}/{KEY} {'0' * 64}", f"empty {RUN}/{KEY}"])
        assert (outside / "0").exists()


def test_the_state_is_the_one_that_the_cluster_computes(cluster: SlurmCluster) -> None:
    claimed(created(cluster), gate="17")
    Path(cluster.base(), "runs", RUN, KEY, "notes").write_text("mine")
    (launch,) = look_at_all(cluster).launches
    printed = subprocess.run(
        "find . -mindepth 1 -maxdepth 4 -path './*/*' ! -path './[0-9]*/claim*' -prune -o -printf '%p %l\\n'"
        " | LC_ALL=C sort | sha256sum",
        shell=True,
        cwd=Path(cluster.base(), "runs", RUN, KEY),
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.split()[0] == launch.state
