"""look.sh, run by the shell of this machine and by dash, and the parser of what it prints."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.launches import DESCRIPTION, KEY, RUN, adopted, claimed, created
from tests.support.slurm_programs import Slurm, accounted, queued

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.description import Description, EndMark, StartMark
from dagster_slurm.cluster.look import Ask, Look, SlurmAnswers, look, look_at_all
from dagster_slurm.cluster.records import REVOKED, AttemptRecord, Listing, SbatchAnswer, parse_listing
from dagster_slurm.errors import ConnectionFailedError, SlurmUnavailableError
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm import commands
from dagster_slurm.slurm.states import JobState
from dagster_slurm.transport import LocalTransport
from dagster_slurm.transport.shell import verb

STATUS = "start 17 0 1.0 n1\nend 17 0 0 2.0 0 0 0\n"


def seen(cluster: SlurmCluster, *launches: RunDirectory, ask: Ask = Ask.JOBS, asset: str = "") -> Look:
    return look(cluster, launches or [RunDirectory(cluster.base(), RUN, KEY)], asset_digest=asset, ask=ask)


def newest(found: Look, launch: RunDirectory) -> AttemptRecord:
    newest = found.listing.newest(launch)
    assert newest
    return newest[1]


def noting(directory: Path, *programs: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which these programs are noted whenever they are started."""
    directory.mkdir()
    for name in programs:
        text = f'#!/bin/sh\necho {name} >>{directory}/started\nexec {shutil.which(name)} "$@"\n'
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory / "started"


class TestOneAttempt:
    """What a record holds, whether one launch was looked at or all."""

    @pytest.fixture(params=["one", "all"])
    def read(self, request: pytest.FixtureRequest, cluster: SlurmCluster) -> Callable[[RunDirectory], Listing]:
        if request.param == "all":
            return lambda launch: look_at_all(cluster)
        return lambda launch: look(cluster, [launch]).listing

    def test_everything(self, read: Callable[[RunDirectory], Listing], cluster: SlurmCluster) -> None:
        directory = created(cluster)
        claimed(directory, job_id="16", gate=REVOKED)
        claimed(directory, 1)
        Path(directory.claim(2)).symlink_to("closed")
        Path(directory.path, "log", "status").write_text(STATUS)
        Path(directory.path, "outcome.json").write_text('{"state": "FAILED"}\n')
        listing = read(directory)
        (launch,) = listing.launches
        (attempt,) = launch.attempts
        assert listing.newest(directory) == (0, attempt)
        assert (launch.path, attempt.directory) == (f"{RUN}/{KEY}", directory)
        assert (attempt.protocol, attempt.description, attempt.generation) == ("1", DESCRIPTION, 1)
        assert attempt.marks == (
            StartMark("17", 0, 1.0, "n1"),
            EndMark("17", 0, 0, 2.0, {"stdout": 0, "stderr": 0, "messages": 0}),
        )
        assert [(each.generation, each.job_id, each.owner) for each in attempt.claims] == [
            (0, "16", REVOKED),
            (1, "17", ""),
        ]
        assert attempt.claims[1].answer == SbatchAnswer(0, "a word of the site\n17;cluster\n")
        assert (attempt.is_closed, attempt.outcome) == (True, '{"state": "FAILED"}')
        assert all(abs(at - time.time()) < 60 for at in (listing.now, attempt.made_at, attempt.claims[0].made_at))

    @pytest.mark.parametrize(
        ("job_id", "gate", "refused", "expected"),
        [
            ("17", "", "", "17"),
            ("17", "17", "", "17"),
            ("", "", "", ""),
            ("", "18", "", "18"),
            ("17", "", "sbatch: error: invalid partition", ""),
            ("17", REVOKED, "", "17"),
        ],
    )
    def test_whose_job_it_is(
        self,
        read: Callable[[RunDirectory], Listing],
        cluster: SlurmCluster,
        job_id: str,
        gate: str,
        refused: str,
        expected: str,
    ) -> None:
        directory = created(cluster)
        claimed(directory, job_id=job_id, gate=gate, refused=refused)
        (claim,) = read(directory).launches[0].attempts[0].claims
        assert claim.job_id == expected
        answer = SbatchAnswer(1, "", f"{refused}\n") if refused else None
        assert claim.answer == answer or (job_id and not refused)
        assert read(directory).gate_owner(directory, 0) == gate

    def test_an_adopted_one_is_what_lies_behind_the_link(
        self, read: Callable[[RunDirectory], Listing], cluster: SlurmCluster
    ) -> None:
        directory = created(cluster, attempt=1)
        created(cluster)
        link = adopted(cluster, directory, attempt=3)
        listing = read(link)
        found = listing.newest(link)
        assert found is not None
        assert (found[0], found[1].directory, found[1].protocol) == (3, directory, "1")
        record = next(launch for launch in listing.launches if launch.run == "other")
        assert (record.adopted, record.attempts) == ({3: directory.relative}, ())

    def test_a_link_to_nothing(self, read: Callable[[RunDirectory], Listing], cluster: SlurmCluster) -> None:
        directory = created(cluster)
        link = adopted(cluster, directory)
        shutil.rmtree(directory.launch)
        assert read(link).newest(link) == (0, AttemptRecord(link, is_closed=True))

    @pytest.mark.parametrize("target", ["/etc", "../../../..", "../../a b/c/0", "..", "../../x/y/z/0", "."])
    def test_a_link_elsewhere_is_not_followed(
        self, read: Callable[[RunDirectory], Listing], cluster: SlurmCluster, target: str
    ) -> None:
        link = RunDirectory(cluster.base(), "other", KEY)
        Path(link.launch).mkdir(parents=True)
        Path(link.path).symlink_to(target)
        assert read(link).newest(link) == (0, AttemptRecord(link, is_closed=True))

    @pytest.mark.parametrize("name", ["launch.json", "protocol", "log/status", "claim/0/status", "claim/0/stdout"])
    @pytest.mark.parametrize("content", [None, b"", b"{", b"\0\xff\n\0", b'{"step_key": ', b"-1\n", b"1" * 20 + b"\n"])
    def test_damage(
        self, read: Callable[[RunDirectory], Listing], cluster: SlurmCluster, name: str, content: bytes | None
    ) -> None:
        directory = created(cluster)
        claimed(directory)
        path = Path(directory.path, name)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        found = read(directory).newest(directory)
        assert found is not None
        attempt = found[1]
        whole = {
            "launch.json": attempt.description == DESCRIPTION,
            "protocol": attempt.protocol == "1",
            "log/status": attempt.marks == (),
            "claim/0/status": attempt.claims[0].answer is not None,
            "claim/0/stdout": attempt.claims[0].job_id == "17" or attempt.claims[0].answer is None,
        }
        # What is damaged is empty, and everything else is there.
        assert [each for each, is_whole in whole.items() if not is_whole and each != name] == []
        assert name == "log/status" or not whole[name]

    def test_odd_names_are_passed_over(self, read: Callable[[RunDirectory], Listing], cluster: SlurmCluster) -> None:
        directory = created(cluster)
        claimed(directory)
        before = read(directory).newest(directory)
        odd = ("a\nb", "tab\there", "\udcff", "7 ", "-n", "$(date)", "0\n", "٣", "*", "9" * 30)
        for below in ("", "0", "0/claim", "0/log"):
            for name in odd:
                Path(directory.launch, below, name).mkdir()
        listing = read(directory)
        assert listing.newest(directory) == before
        (launch,) = listing.launches
        assert "a\nb" in launch.unknown
        assert "\udcff" in launch.unknown

    def test_a_long_array(self, read: Callable[[RunDirectory], Listing], cluster: SlurmCluster) -> None:
        description = Description(elements=tuple(f"{number:030d}" for number in range(20_000)))
        directory = created(cluster, description=description)
        for number in range(3):
            Path(directory.path, "elements", str(number), "log").mkdir(parents=True)
        found = read(directory).newest(directory)
        assert found is not None
        assert found[1].description.elements == description.elements


class TestSome:
    """Launches by their names."""

    def test_nothing_there(self, cluster: SlurmCluster, slurm: Slurm) -> None:
        assert seen(cluster) == Look(Listing(0.0))
        created(cluster, "other")
        assert seen(cluster) == Look(Listing(0.0))
        assert slurm.asked() == []

    def test_no_others_are_read(self, cluster: SlurmCluster) -> None:
        own, _ = created(cluster), created(cluster, key="step-000000000000")
        assert [launch.path for launch in seen(cluster).listing.launches] == [f"{RUN}/{KEY}"]
        assert [each.directory for each in seen(cluster).listing.attempts(own).values()] == [own]

    def test_tasks_of_an_array_are_not_listed(self, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        Path(directory.path, "elements", "7", "log").mkdir(parents=True)
        script = verb("look", "dagster_slurm.cluster_scripts")
        printed = cluster.transport.run(script, (cluster.base(), "", "", f"runs/{RUN}/{KEY}")).stdout
        assert (b"/elements\t" in printed, b"/elements/" in printed) == (True, False)

    def test_the_newest_attempt_of_an_asset(self, cluster: SlurmCluster, slurm: Slurm) -> None:
        directory = created(cluster, "other", asset="aaa")
        claimed(directory)
        found = seen(cluster, asset="aaa")
        assert found.listing.newest_of_assets == {"aaa": directory.relative}
        assert newest(found, directory).claims[0].job_id == "17"
        assert slurm.asked() == ["squeue --jobs=17", "sacct --jobs=17"]
        assert seen(cluster, asset="bbb").listing.newest_of_assets == {}
        shutil.rmtree(directory.launch)
        assert seen(cluster, asset="aaa").listing.dangling_links == ("aaa",)

    def test_processes_however_many_launches(
        self, cluster: SlurmCluster, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directories = [created(cluster, key=f"step-{number:012d}") for number in range(20)]
        for number, directory in enumerate(directories):
            claimed(directory, job_id=str(100 + number))
        started = noting(tmp_path / "noted", "find", "grep", "date", "cat", "stat", monkeypatch=monkeypatch)
        with closing(LocalTransport(channels=1)) as transport:
            found = seen(SlurmCluster(transport, remote_base=cluster.base()), *directories, ask=Ask.NOTHING)
        assert [newest(found, each).claims[0].job_id for each in directories] == [str(100 + n) for n in range(20)]
        assert started.read_text().split() == ["stat", "find", "find", "grep"]


class TestQuestions:
    """What Slurm is asked, in the same round trip."""

    @pytest.mark.parametrize(
        ("ask", "job_id", "gate", "refused", "expected"),
        [
            (Ask.NOTHING, "17", "", "", []),
            (Ask.LOST, "17", "", "", []),
            (Ask.JOBS, "17", "", "", ["squeue --jobs=17", "sacct --jobs=17"]),
            (Ask.JOBS, "17", "18", "", ["squeue --jobs=18", "sacct --jobs=18"]),
            (Ask.JOBS, "17", REVOKED, "", []),
            (Ask.LOST, "", "", "", [f"squeue --name={KEY}.2.1"]),
            (Ask.JOBS, "", "", "", [f"squeue --name={KEY}.2.1"]),
            (Ask.JOBS, "17", "", "Socket timed out", [f"squeue --name={KEY}.2.1"]),
        ],
    )
    def test_about_the_newest_try(
        self,
        cluster: SlurmCluster,
        slurm: Slurm,
        ask: Ask,
        job_id: str,
        gate: str,
        refused: str,
        expected: list[str],
    ) -> None:
        created(cluster)
        directory = created(cluster, attempt=2)
        claimed(directory, job_id="5", gate=REVOKED)
        claimed(directory, 1, job_id=job_id, gate=gate, refused=refused)
        assert newest(seen(cluster, ask=ask), directory).generation == 1
        assert slurm.asked() == expected
        Path(directory.claim(2)).symlink_to("closed")
        seen(cluster, ask=ask)
        assert slurm.asked() == expected

    def test_names_are_those_of_the_jobs(self, cluster: SlurmCluster, slurm: Slurm) -> None:
        directories = [created(cluster, key=f"step-{attempt:012d}", attempt=attempt) for attempt in (0, 1)]
        for directory in directories:
            claimed(directory, job_id="")
        names = [directory.job_name(0) for directory in directories]
        slurm.says("squeue", queued("18", name=names[1]) + queued("19", name=names[1]) + queued("7", name="x"))
        found = seen(cluster, *directories)
        assert slurm.asked() == [f"squeue --name={','.join(names)}"]
        told = {name: entry and entry.job_id for name, entry in found.slurm.names.items()}
        assert told == {names[0]: None, names[1]: "18"}

    def test_made_and_not_submitted(self, cluster: SlurmCluster, slurm: Slurm) -> None:
        created(cluster)
        assert seen(cluster).slurm == SlurmAnswers()
        assert slurm.asked() == []

    def test_both_kinds_at_once(self, cluster: SlurmCluster, slurm: Slurm) -> None:
        one, two, three = (created(cluster, run) for run in ("a", "b", "c"))
        claimed(one, job_id="")
        claimed(two, job_id="17")
        claimed(three, job_id="18")
        slurm.says("squeue", queued() + queued("18", "CANCELLED"))
        slurm.says("sacct", accounted("18", "CANCELLED by 1000"))
        found = seen(cluster, one, two, three).slurm
        asked = [f"squeue --name={KEY}", "squeue --jobs=17,18", "sacct --jobs=18"]
        assert slurm.asked() == asked
        assert {job_id: entry.state for job_id, entry in found.queue.items()} == {
            "17": JobState.RUNNING,
            "18": JobState.CANCELLED,
        }
        assert found.queue_asked == {"17", "18"}
        assert found.accounting["18"].state is JobState.CANCELLED

    @pytest.mark.parametrize("state", ["PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING"])
    def test_what_goes_on_needs_no_accounting(self, cluster: SlurmCluster, slurm: Slurm, state: str) -> None:
        claimed(created(cluster))
        slurm.says("squeue", queued(state=state))
        assert seen(cluster).slurm.queue["17"].state is JobState(state)
        assert slurm.asked() == ["squeue --jobs=17"]

    def test_the_one_that_is_unknown_has_left_the_queue(self, cluster: SlurmCluster, slurm: Slurm) -> None:
        claimed(created(cluster))
        slurm.says("squeue", status=1, error="slurm_load_jobs error: Invalid job id specified\n")
        slurm.says("sacct", accounted())
        found = seen(cluster).slurm
        assert (found.queue, found.queue_asked) == ({}, {"17"})
        assert (found.accounting["17"].state, found.accounting["17"].name) == (JobState.FAILED, KEY)

    @pytest.mark.parametrize("job_id", ["17", ""])
    def test_squeue_does_not_answer(self, cluster: SlurmCluster, slurm: Slurm, job_id: str) -> None:
        """No answer is not an empty answer."""
        claimed(created(cluster), job_id=job_id)
        slurm.says("squeue", status=1, error="slurm_load_jobs error: Unable to contact slurm controller\n")
        with pytest.raises(SlurmUnavailableError, match="Unable to contact"):
            seen(cluster)

    @pytest.mark.parametrize(
        ("status", "error", "is_off"),
        [
            (1, "Slurm accounting storage is disabled\n", True),
            (0, "Slurm accounting storage is disabled\n", True),
            (127, "env: 'sacct': No such file or directory\n", True),
            (1, "sacct: error: slurmdbd: Connection refused\n", False),
            (1, "sacct: error: Access denied\n", False),
        ],
    )
    def test_sacct_does_not_answer(
        self, cluster: SlurmCluster, slurm: Slurm, status: int, error: str, is_off: bool
    ) -> None:
        claimed(created(cluster))
        slurm.says("sacct", status=status, error=error)
        found = seen(cluster).slurm
        assert (found.accounting, found.is_accounting_off) == ({}, is_off)

    def test_words_of_the_commands_need_no_quotes(self) -> None:
        """look.sh has them in one argument each."""
        for version in (None, (25, 11)):
            words = (*commands.squeue_of_own(), *commands.sacct_of_any(version))
            assert [word for word in words if set(word) & set(" \t\n*?[]\\'\"")] == []


class TestEverything:
    """All that lies there, in one step."""

    def test_nothing_there(self, cluster: SlurmCluster) -> None:
        assert look_at_all(cluster) == Listing(0.0)
        Path(cluster.base()).mkdir()
        assert look_at_all(cluster) == Listing(0.0)

    def test_half_made_and_unknown_and_empty(self, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        for name in ("1.part.123", ".dagster-slurm.0123abcd.ef.0a.part"):
            Path(directory.launch, name).mkdir()
        Path(directory.launch, "notes").write_text("mine")
        Path(cluster.base(), "runs", "nothing").mkdir()
        Path(cluster.base(), "runs", "almost", KEY).mkdir(parents=True)
        Path(cluster.base(), "runs", "white space", KEY).mkdir(parents=True)
        Path(cluster.base(), "runs", "notes.txt").write_text("mine")
        listing = look_at_all(cluster)
        launch, empty = listing.launches
        assert sorted(launch.half_made) == [".dagster-slurm.0123abcd.ef.0a.part", "1.part.123"]
        assert launch.unknown == ("notes",)
        assert (empty.path, empty.is_empty) == (f"almost/{KEY}", True)
        assert set(listing.empty_runs) == {"nothing"}

    @pytest.mark.parametrize(("names", "expected"), [((), False), (("work",), True), (("a", "claim", "log"), True)])
    def test_checkpoints(self, cluster: SlurmCluster, names: tuple[str, ...], expected: bool) -> None:
        directory = created(cluster)
        assert look_at_all(cluster).launches[0].checkpoint is None
        Path(directory.checkpoint).mkdir()
        for name in names:
            Path(directory.checkpoint, name, "0").mkdir(parents=True)
        (launch,) = look_at_all(cluster).launches
        assert (launch.checkpoint, launch.unknown, len(launch.attempts)) == (expected, (), 1)

    def test_links_of_assets(self, cluster: SlurmCluster) -> None:
        shutil.rmtree(created(cluster, "gone", asset="aaa").path)
        directory = created(cluster, asset="bbb")
        listing = look_at_all(cluster)
        assert (listing.dangling_links, listing.newest_of_assets) == (("aaa",), {"bbb": directory.relative})

    def test_three_hundred_launches_are_read_by_three_processes(
        self, cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = created(cluster)
        claimed(directory)
        for number in range(299):
            shutil.copytree(directory.launch, Path(cluster.base(), "runs", RUN, f"step-{number:012d}"), symlinks=True)
        started = noting(tmp_path / "noted", "find", "grep", monkeypatch=monkeypatch)
        with closing(LocalTransport(channels=1)) as transport:
            listing = look_at_all(SlurmCluster(transport, remote_base=cluster.base()))
        assert started.read_text().split() == ["find", "find", "grep"]
        assert {launch.attempts[0].claims[0].job_id for launch in listing.launches} == {"17"}
        assert len(listing.launches) == 300


@pytest.mark.parametrize("programs", ["find", "mktemp date"])
@pytest.mark.parametrize("end", ["kill -9 $$", "exit 127"])
def test_a_look_that_was_cut_off_is_not_an_empty_one(
    cluster: SlurmCluster, slurm: Slurm, programs: str, end: str
) -> None:
    directory = created(cluster)
    for program in programs.split():
        (slurm.directory / program).write_text(f"#!/bin/sh\n{end}\n")
        (slurm.directory / program).chmod(0o755)
    for read in (lambda: look(cluster, [directory]), lambda: look_at_all(cluster)):
        with pytest.raises(ConnectionFailedError, match="was cut off"):
            read()


@pytest.mark.parametrize("refused", ["", "sbatch: error: Socket timed out on send/recv operation"])
def test_an_answer_that_comes_while_it_is_read_is_none(cluster: SlurmCluster, slurm: Slurm, refused: str) -> None:
    """What sbatch said may have been read before it, and its status after it."""
    directory = created(cluster)
    claim = claimed(directory, job_id="")
    answered = claimed(created(cluster, "other"), refused=refused)
    find = slurm.directory / "find"
    # Behind the listing, and in front of the contents.
    there, status = (shlex.quote(str(path / "status")) for path in (answered, claim))
    find.write_text(f'#!/bin/sh\n{shutil.which("find")} "$@"\n[ -e {status} ] || cp {there} {status}\n')
    find.chmod(0o755)
    (attempt,) = look(cluster, [directory]).listing.launches[0].attempts
    assert (attempt.claims[0].answer, (claim / "status").exists()) == (None, True)


def test_dash_prints_the_same(cluster: SlurmCluster, slurm: Slurm) -> None:
    """And says nothing of its own."""
    directory = created(cluster, asset="aaa")
    claimed(directory, job_id="")
    claimed(created(cluster, "third"), job_id="17")
    adopted(cluster, directory)
    slurm.says("squeue", queued(state="TIMEOUT"))
    script = verb("look", "dagster_slurm.cluster_scripts")
    words = [" ".join(commands.squeue_of_own()), " ".join(commands.sacct_of_any())]
    roots = [f"runs/other/{KEY}", f"runs/third/{KEY}", "assets/aaa", "runs/none/none"]
    argv = ["-c", script, "sh", cluster.base(), *words, *roots]
    done = [subprocess.run([shell, *argv], capture_output=True, check=True) for shell in ("dash", "bash", "sh")]
    assert len({each.stdout.partition(b"\0")[2] for each in done}) == 1
    assert {each.stderr for each in done} == {b"\0\0\0"}
    listing, answers = parse_listing(done[0].stdout, cluster.base())
    assert {launch.run for launch in listing.launches} == {RUN, "other", "third"}
    assert list(answers) == [f"names {KEY}", "squeue 17", "sacct 17"]


def test_what_was_cut_off_harms_nothing() -> None:
    assert parse_listing(b"1700000000\0\0runs/r/k/0/protocol\x001", "/b")[0].launches == ()
    assert parse_listing(b"1700000000\0d\td\t1.0\truns\t\0\0", "/b") == (Listing(1700000000.0), {})


@given(st.binary(max_size=400) | st.text(alphabet="\0\t\nrunsd/k01.N", max_size=120).map(str.encode))
def test_whatever_comes_is_taken_apart_or_is_no_number(data: bytes) -> None:
    # The clock, or a time, may be none: `date` and `find` print numbers.
    with suppress(ValueError):
        parse_listing(data, "/b")


def test_directories_of_1_22_are_none_of_ours(cluster: SlurmCluster) -> None:
    """Its files lie in the run's directory itself; a launch of ours beside a file that somebody left there is one."""
    base = Path(cluster.base())
    former = base / "runs" / "0f2c6f0e-6a53-4d2b-9d61-7a40a3d6f1aa"
    for directory in (former / "output", former / "logs", base / "env-cache" / "0123abcd" / "env"):
        directory.mkdir(parents=True)
    (former / "job.sh").write_text("#!/bin/bash\n")
    (former / "logs" / "x").write_text("x\n")
    assert look_at_all(cluster).launches == ()
    assert look_at_all(cluster).empty_runs == {}
    own = created(cluster)
    (Path(own.path).parents[1] / "note").write_text("mine\n")
    assert [each.key for each in look_at_all(cluster).launches] == [own.key]
