"""launches.sh, sizes.sh and clean.sh, run by the shell of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.launches import REVOKED, Launches, Listing, parse_listing
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.transport import LocalTransport, TreeEntry

RUN = "8d9f0c1e-0000-4000-8000-000000000000"
KEY = "step-0123456789ab"
DESCRIPTION = '{"step_key": "step", "note": "a \\"quoted\\" | word"}'


@pytest.fixture(scope="module")
def transport() -> Iterator[LocalTransport]:
    transport = LocalTransport(channels=1)
    yield transport
    transport.close()


@pytest.fixture
def cluster(transport: LocalTransport, tmp_path: Path) -> SlurmCluster:
    return SlurmCluster(transport, remote_base=str(tmp_path / "base it's"))


@pytest.fixture
def launches(cluster: SlurmCluster) -> Launches:
    return Launches(cluster)


def created(cluster: SlurmCluster, run: str = RUN, key: str = KEY, attempt: int = 0, asset: str = "") -> RunDirectory:
    directory = RunDirectory(cluster.base(), run, key, attempt)
    directory.create(
        cluster.transport,
        script="#!/bin/bash\n",
        env="",
        context=b"{}",
        work=[TreeEntry("protocol", b"99\n"), TreeEntry("claim/0/status", b"0\n"), TreeEntry("data", bytes(40000))],
        description=DESCRIPTION,
        asset_digest=asset,
    )
    if asset:
        links = Path(cluster.base(), "assets")
        links.mkdir(exist_ok=True)
        (links / asset).symlink_to(f"../runs/{directory.relative}")
    return directory


def claimed(directory: RunDirectory, generation: int = 0, *, job_id: str = "17", gate: str = "") -> None:
    claim = Path(directory.claim(generation))
    claim.mkdir(parents=True)
    (claim / "stdout").write_text(f"a word of the site\n{job_id};cluster\n" if job_id else "")
    (claim / "stderr").write_text("")
    (claim / "status").write_text("0\n" if job_id else "1\n")
    if gate:
        (claim / "gate").symlink_to(gate)


def noting(directory: Path, *programs: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which these programs are noted whenever they are started."""
    directory.mkdir()
    for name in programs:
        text = f'#!/bin/sh\necho {name} >>{directory}/started\nexec {shutil.which(name)} "$@"\n'
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory / "started"


def orders_of(listing: Listing) -> list[str]:
    return [f"launch {launch.path} {launch.state}" for launch in listing.launches]


def paths(cluster: SlurmCluster) -> list[str]:
    base = Path(cluster.base())
    return sorted(str(path.relative_to(base)) for path in base.rglob("*"))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def aged(path: Path) -> None:
    os.utime(path, (time.time() - 90000,) * 2, follow_symlinks=False)


class TestListing:
    """launches.sh: everything in one step."""

    def test_nothing_there(self, launches: Launches) -> None:
        assert launches.listing() == Listing(0.0)

    def test_a_base_without_launches(self, launches: Launches, cluster: SlurmCluster) -> None:
        Path(cluster.base()).mkdir()
        listing = launches.listing()
        assert (listing.launches, listing.empty_runs, listing.dangling_links) == ((), {}, ())
        assert abs(listing.now - time.time()) < 60

    def test_an_attempt(self, launches: Launches, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        claimed(directory, job_id="16", gate=REVOKED)
        claimed(directory, 1)
        Path(directory.claim(2)).symlink_to("closed")
        Path(directory.path, "log", "status").write_text("start 17 0 1.0 n1\nend 17 0 0 2.0 0 0 0\n")
        (launch,) = launches.listing().launches
        (attempt,) = launch.attempts
        assert (launch.path, attempt.directory) == (f"{RUN}/{KEY}", directory)
        assert (attempt.protocol, attempt.description) == ("1", DESCRIPTION)
        assert attempt.status == "start 17 0 1.0 n1\nend 17 0 0 2.0 0 0 0\n"
        found = [(claim.generation, claim.job_ids, claim.owner) for claim in attempt.claims]
        assert found == [(0, ("16",), REVOKED), (1, ("17",), "")]

    @pytest.mark.parametrize(
        ("job_id", "gate", "expected"),
        [("17", "", ("17",)), ("17", "17", ("17",)), ("", "", ()), ("", "18", ("18",))],
    )
    def test_whose_job_it_is(
        self, launches: Launches, cluster: SlurmCluster, job_id: str, gate: str, expected: tuple[str, ...]
    ) -> None:
        claimed(created(cluster), job_id=job_id, gate=gate)
        assert launches.listing().launches[0].attempts[0].claims[0].job_ids == expected

    def test_adopted_attempts_are_named_and_not_entered(self, launches: Launches, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        other = Path(cluster.base(), "runs", "other", KEY)
        other.mkdir(parents=True)
        (other / "0").symlink_to(f"../../{directory.relative}")
        found = {launch.run: launch for launch in launches.listing().launches}
        assert (found["other"].adopted, found["other"].attempts) == ((directory.relative,), ())

    def test_half_made_and_unknown_and_empty(self, launches: Launches, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        for name in ("1.part.123", ".dagster-slurm.0123abcd.ef.0a.part"):
            Path(directory.launch, name).mkdir()
        Path(directory.launch, "notes").write_text("mine")
        Path(cluster.base(), "runs", "nothing").mkdir()
        Path(cluster.base(), "runs", "almost", KEY).mkdir(parents=True)
        Path(cluster.base(), "runs", "white space", KEY).mkdir(parents=True)
        Path(cluster.base(), "runs", "notes.txt").write_text("mine")
        listing = launches.listing()
        launch, empty = listing.launches
        assert sorted(launch.half_made) == [".dagster-slurm.0123abcd.ef.0a.part", "1.part.123"]
        assert launch.unknown == ("notes",)
        assert (empty.path, empty.is_empty) == (f"almost/{KEY}", True)
        assert set(listing.empty_runs) == {"nothing"}

    @pytest.mark.parametrize(("names", "expected"), [((), False), (("work",), True), (("a", "claim", "log"), True)])
    def test_checkpoints(
        self, launches: Launches, cluster: SlurmCluster, names: tuple[str, ...], expected: bool
    ) -> None:
        directory = created(cluster)
        assert launches.listing().launches[0].checkpoint is None
        Path(directory.checkpoint).mkdir()
        for name in names:
            Path(directory.checkpoint, name, "0").mkdir(parents=True)
        (launch,) = launches.listing().launches
        assert (launch.checkpoint, launch.unknown, len(launch.attempts)) == (expected, (), 1)
        assert launches.remove(orders_of(launches.listing())) == ()
        assert paths(cluster) == ["runs"]

    def test_dangling_links(self, launches: Launches, cluster: SlurmCluster) -> None:
        shutil.rmtree(created(cluster, "gone", asset="aaa").path)
        created(cluster, asset="bbb")
        assert launches.listing().dangling_links == ("aaa",)

    def test_what_was_cut_off_harms_nothing(self) -> None:
        assert parse_listing(b"1700000000\0\0runs/r/k/0/protocol\x001", "/b").launches == ()
        assert parse_listing(b"1700000000\0d\td\t1.0\truns\t\0\0", "/b") == Listing(1700000000.0)

    def test_three_hundred_launches_are_read_by_three_processes(
        self, cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = created(cluster)
        claimed(directory)
        for number in range(299):
            shutil.copytree(directory.launch, Path(cluster.base(), "runs", RUN, f"step-{number:012d}"), symlinks=True)
        started = noting(tmp_path / "bin", "find", "grep", monkeypatch=monkeypatch)
        with closing(LocalTransport(channels=1)) as transport:
            listing = Launches(SlurmCluster(transport, remote_base=cluster.base())).listing()
        assert started.read_text().split() == ["find", "find", "grep"]
        assert {launch.attempts[0].claims[0].job_ids for launch in listing.launches} == {("17",)}
        assert len(listing.launches) == 300


def test_sizes(launches: Launches, cluster: SlurmCluster) -> None:
    directory = created(cluster)
    found = launches.sizes_kib([f"runs/{directory.run}/{directory.key}", "runs/none"])
    (kib,) = found.values()
    assert (list(found), kib >= 40) == ([f"runs/{directory.run}/{directory.key}"], True)
    assert launches.sizes_kib([]) == {}


class TestRemoval:
    """clean.sh: what is still as it was listed."""

    def test_a_launch_with_its_links(self, launches: Launches, cluster: SlurmCluster) -> None:
        claimed(created(cluster, asset="aaa"))
        created(cluster, attempt=1, asset="bbb")
        other = created(cluster, "other", asset="ccc")
        assert launches.remove(orders_of(launches.listing())[:1]) == ()
        assert [path for path in paths(cluster) if RUN in path] == []
        assert names_in(Path(cluster.base(), "assets")) == ["ccc"]
        assert Path(other.path).exists()

    def test_read_only_directories(self, launches: Launches, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        Path(directory.work).chmod(0o500)
        assert launches.remove(orders_of(launches.listing())) == ()
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
    def test_what_has_changed_since_stays(self, launches: Launches, cluster: SlurmCluster, change: object) -> None:
        directory = created(cluster)
        orders = orders_of(launches.listing())
        assert callable(change)
        change(directory)
        before = paths(cluster)
        assert launches.remove(orders) == (f"launch {RUN}/{KEY}",)
        assert paths(cluster) == before

    def test_a_gate_that_was_taken_since_keeps_it(self, launches: Launches, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        claimed(directory)
        orders = orders_of(launches.listing())
        Path(directory.claim(0), "gate").symlink_to("17")
        assert launches.remove(orders) == (f"launch {RUN}/{KEY}",)

    def test_a_claim_in_the_last_moment_is_in_the_way(
        self, launches: Launches, cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As if it came between the comparison and the closing.
        directory = created(cluster)
        orders = orders_of(launches.listing())
        (tmp_path / "bin").mkdir()
        mkdir = tmp_path / "bin" / "mkdir"
        mkdir.write_text(f'#!/bin/sh\n{shutil.which("mkdir")} "$@"\n{shutil.which("mkdir")} "$2/0"\n')
        mkdir.chmod(0o755)
        monkeypatch.setenv("PATH", f"{mkdir.parent}:{os.environ['PATH']}")
        transport = LocalTransport(channels=1)
        assert Launches(SlurmCluster(transport, remote_base=cluster.base())).remove(orders) == (f"launch {RUN}/{KEY}",)
        transport.close()
        assert Path(directory.script).exists()

    def test_adopted_links_alone(self, launches: Launches, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        other = Path(cluster.base(), "runs", "other", KEY)
        other.mkdir(parents=True)
        (other / "0").symlink_to(f"../../{directory.relative}")
        assert launches.remove(orders_of(launches.listing())[1:]) == ()
        assert not other.parent.exists()
        assert Path(directory.script).exists()

    def test_half_made_uploads_of_yesterday(self, launches: Launches, cluster: SlurmCluster) -> None:
        launch = Path(cluster.base(), "runs", RUN, KEY)
        for name in ("0.part.1", "0.part.2"):
            (launch / name / "work").mkdir(parents=True)
        (launch / ".dagster-slurm.0a.part").write_text("x")
        aged(launch / "0.part.1")
        aged(launch / ".dagster-slurm.0a.part")
        names = ("0.part.1", "0.part.2", ".dagster-slurm.0a.part", "0.part.3")
        left = launches.remove([f"part {RUN}/{KEY}/{name}" for name in names])
        assert left == (f"part {RUN}/{KEY}/0.part.2", f"part {RUN}/{KEY}/0.part.3")
        assert names_in(launch) == ["0.part.2"]

    def test_the_last_half_made_upload_takes_its_directories_along(
        self, launches: Launches, cluster: SlurmCluster
    ) -> None:
        part = Path(cluster.base(), "runs", RUN, KEY, "0.part.1")
        part.mkdir(parents=True)
        aged(part)
        assert launches.remove([f"part {RUN}/{KEY}/0.part.1"]) == ()
        assert paths(cluster) == ["runs"]

    def test_links_and_empty_directories(self, launches: Launches, cluster: SlurmCluster) -> None:
        directory = created(cluster, asset="bbb")
        shutil.rmtree(created(cluster, "gone", asset="aaa").launch)
        Path(cluster.base(), "runs", "none", "key").mkdir(parents=True)
        orders = ["link aaa", "link bbb", "empty gone", "empty none/key", f"empty {RUN}", "else x"]
        assert launches.remove(orders) == ("link bbb", f"empty {RUN}", "else x")
        assert names_in(Path(cluster.base(), "runs")) == [RUN]
        assert Path(directory.script).exists()

    def test_what_was_half_removed_is_a_half_made_upload(self, launches: Launches, cluster: SlurmCluster) -> None:
        created(cluster)
        launch = Path(cluster.base(), "runs", RUN, KEY)
        (launch / "0").rename(launch / "0.part.4711")
        (found,) = launches.listing().launches
        assert (list(found.half_made), found.attempts) == (["0.part.4711"], ())

    def test_gone_already(self, launches: Launches, cluster: SlurmCluster) -> None:
        created(cluster)
        orders = orders_of(launches.listing())
        assert launches.remove(orders) == launches.remove(orders) == ()

    def test_it_never_leaves_its_directory(self, launches: Launches, cluster: SlurmCluster, tmp_path: Path) -> None:
        # Names with white space, or that lead elsewhere, are not listed; a link that does is not followed.
        outside = tmp_path / "outside"
        (outside / "0").mkdir(parents=True)
        (Path(cluster.base()) / "runs" / RUN).mkdir(parents=True)
        (Path(cluster.base()) / "runs" / RUN / KEY).symlink_to(outside)
        listing = launches.listing()
        assert (listing.launches, listing.empty_runs) == ((), {})
        launches.remove([f"launch {RUN}/{KEY} {'0' * 64}", f"empty {RUN}/{KEY}"])
        assert (outside / "0").exists()


def test_the_state_is_the_one_that_the_cluster_computes(launches: Launches, cluster: SlurmCluster) -> None:
    claimed(created(cluster), gate="17")
    Path(cluster.base(), "runs", RUN, KEY, "notes").write_text("mine")
    (launch,) = launches.listing().launches
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
