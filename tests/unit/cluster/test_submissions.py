"""Trees, claims and sbatch of many attempts in one request, in real shells; sbatch is a stand-in."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from shlex import quote

import pytest
from tests.support.counting import Counting
from tests.support.slurm_programs import Slurm, queued
from tests.support.waiting import eventually

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster import claims as claims_module
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.look import look
from dagster_slurm.cluster.submissions import MOST, are_small
from dagster_slurm.errors import (
    AttemptClosedError,
    DagsterSlurmError,
    InvalidRequestError,
    RemoteStorageError,
    TransferCorruptedError,
    TransportError,
)
from dagster_slurm.job.submission import Known, Reattachment, submit_once
from dagster_slurm.run_directory import PROTOCOL_VERSION, JobHandle, RunDirectory
from dagster_slurm.transport import CompletedCommand, TreeEntry

MANY = 30
# The number of the launch is the id. `slow` of them do not end before it is gone, and say so.
SBATCH = """#!/bin/sh
here=$(dirname "$0")
printf '%s in %s\\n' "$*" "$PWD" >>"$here/calls"
key=${3%/job.sh}; key=${key%/*}; key=${key##*/}
if [ -e "$here/slow-$key" ]; then
    echo "sbatch: $(cat "$here/slow-$key")" >&2
    while [ -e "$here/slow-$key" ]; do sleep 0.1; done
fi
echo "4${key#key}"
"""
# Kills what runs it, when it is run so often.
DYING = """#!/bin/sh
echo >>"$0.count"
[ "$(grep -c '' "$0.count")" != {number} ] || kill -9 "$PPID"
exec {real} "$@"
"""


@pytest.fixture
def transport(slurm: Slurm) -> Iterator[Counting]:
    (slurm.directory / "sbatch").write_text(SBATCH)
    made = Counting()
    yield made
    made.close()


@pytest.fixture
def own(transport: Counting, tmp_path: Path) -> SlurmCluster:
    return SlurmCluster(transport, remote_base=str(tmp_path / "base it's"))


def attempt(cluster: SlurmCluster, number: int = 0) -> RunDirectory:
    return RunDirectory(cluster.base(), "run", f"key{number}")


def files_of(directory: RunDirectory, *more: TreeEntry) -> list[TreeEntry]:
    work = [TreeEntry("payload.sh", f"{directory.key}\n".encode(), 0o700), *more]
    return directory.files(script="#!/bin/bash\n", env="", context=b"{}", work=work)


def hold_until_wait(transport: Counting, cluster: SlurmCluster, count: int) -> None:
    """Have the first request, which comes alone, wait for so many others."""
    gathered = cluster.submissions._gathered
    transport.hold = lambda: eventually(lambda: len(gathered._waiting) >= count)


def calls(slurm: Slurm) -> list[str]:
    path = slurm.directory / "calls"
    return path.read_text().splitlines() if path.exists() else []


def made(directory: RunDirectory) -> list[str]:
    top = Path(directory.path)
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())


def test_many_at_once_in_few_requests(own: SlurmCluster, transport: Counting, slurm: Slurm) -> None:
    hold_until_wait(transport, own, MANY - 1)
    directories = [attempt(own, number) for number in range(MANY)]

    def submit(directory: RunDirectory) -> JobHandle:
        return submit_once(Claims(own), directory, files_of(directory))

    with ThreadPoolExecutor(MANY) as threads:
        handles = list(threads.map(submit, directories))
    assert [handle.job_id for handle in handles] == [f"4{number}" for number in range(MANY)]
    # The first came alone.
    assert len(transport.scripts) <= 2 + MANY // MOST
    # Each with its name, in its own directory: Slurm's record of a job names it.
    assert sorted(calls(slurm)) == sorted(
        f"--parsable --job-name={each.job_name()} {each.script} 0 in {each.work}" for each in directories
    )
    for each in directories:
        assert Path(each.work, "payload.sh").read_text() == f"{each.key}\n"
        assert Path(each.script).stat().st_mode & 0o777 == 0o700
        assert Path(each.env_file).stat().st_mode & 0o777 == 0o600
        assert Path(each.path).stat().st_mode & 0o777 == 0o700
        assert {"protocol", "claim/0/status", "claim/0/stdout", "claim/0/stderr"} < set(made(each))
    assert not list(Path(own.base()).rglob("*.part*"))
    assert not list(Path(own.base()).rglob(".dagster-slurm*"))


def test_asked_again_gives_the_same(own: SlurmCluster, slurm: Slurm) -> None:
    directory = attempt(own, 7)
    first = submit_once(Claims(own), directory, files_of(directory))
    again = submit_once(Claims(own), directory, files_of(directory, TreeEntry("other", b"")))
    assert (first, again, len(calls(slurm))) == (JobHandle(directory, "47", 0), first, 1)
    # What is there stays as it is.
    assert not Path(directory.work, "other").exists()


def test_only_those_fail_that_cannot_be_put(own: SlurmCluster, transport: Counting, slurm: Slurm) -> None:
    # One has a name that is refused here.
    hold_until_wait(transport, own, MANY - 2)
    runs = Path(own.base(), "runs", "run")
    runs.mkdir(parents=True)
    for number in (0, 3):
        (runs / f"key{number}").write_text("in the way")

    def submit(number: int) -> str:
        directory = attempt(own, number)
        more = [TreeEntry("a\nb", b"")] if number == 5 else []
        try:
            return submit_once(Claims(own), directory, files_of(directory, *more)).job_id
        except (RemoteStorageError, InvalidRequestError) as error:
            return str(error)

    with ThreadPoolExecutor(MANY) as threads:
        found = list(threads.map(submit, range(MANY)))
    assert [number for number, each in enumerate(found) if each != f"4{number}"] == [0, 3, 5]
    assert attempt(own, 3).path in found[3]
    assert "line break" in found[5]
    assert len(calls(slurm)) == MANY - 3
    assert not list(runs.rglob("*.part.*"))


def test_what_does_not_arrive_whole_is_not_submitted(
    own: SlurmCluster, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_slurm.transport.content.digest", lambda source: ("0" * 64, len(source), source))
    directory = attempt(own)
    with pytest.raises(TransferCorruptedError, match="key0"):
        submit_once(Claims(own), directory, files_of(directory))
    assert not calls(slurm)
    assert not list(Path(directory.launch).iterdir())


def test_a_stream_that_is_cut_off_is_not_submitted(
    own: SlurmCluster, transport: Counting, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = transport.run

    def cut(script: str, args: Sequence[str] = (), *, stdin: bytes = b"", **options: object) -> CompletedCommand:
        return real(script, args, stdin=stdin[: len(stdin) // 2], **options)

    directory = attempt(own)
    with monkeypatch.context() as patch:
        patch.setattr(transport, "run", cut)
        with pytest.raises(TransportError):
            submit_once(Claims(own), directory, files_of(directory))
    assert not calls(slurm)
    assert not list(Path(directory.launch).iterdir())
    assert submit_once(Claims(own), directory, files_of(directory)).job_id == "40"


@pytest.mark.parametrize(
    ("program", "number"),
    [
        ("mkdir", 1),
        ("mkdir", 2),
        ("tar", 1),
        ("sha256sum", 1),
        ("mv", 1),
        ("rm", 1),
        ("touch", 1),
        ("setsid", 1),
        ("timeout", 1),
        ("sync", 1),
        ("mv", 2),
    ],
)
def test_whatever_dies_there_and_when_one_job_is_submitted(
    own: SlurmCluster, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, program: str, number: int
) -> None:
    monkeypatch.setattr(claims_module, "_SUBMIT_PATIENCE_SECONDS", 1)
    dying = slurm.directory / program
    dying.write_text(DYING.format(number=number, real=shutil.which(program)))
    dying.chmod(0o755)
    directory = attempt(own)
    knows = f"#!/bin/sh\n[ ! -e {slurm.directory}/calls ] || echo '{queued('40', name=directory.job_name()).strip()}'\n"
    (slurm.directory / "squeue").write_text(knows)

    def submit() -> JobHandle:
        return submit_once(Claims(own), directory, files_of(directory))

    with suppress(DagsterSlurmError):
        submit()
    assert len((slurm.directory / f"{program}.count").read_text()) >= number
    handle = submit()
    # A try whose sbatch never ran is revoked, and followed by another one.
    assert handle == JobHandle(directory, "40", handle.generation)
    assert len(calls(slurm)) == 1
    assert {"protocol", "launch.json", "job.sh", "env.sh", "work/payload.sh"} < set(made(directory))


def of_an_asset(directory: RunDirectory) -> list[TreeEntry]:
    return [*files_of(directory), TreeEntry("asset", f"asset-{directory.key}\n".encode())]


def links(cluster: SlurmCluster) -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in Path(cluster.base(), "assets").glob("*")}


def test_a_request_takes_as_many_processes_for_many_as_for_one(
    own: SlurmCluster, transport: Counting, slurm: Slurm
) -> None:
    for program in ("mkdir", "mv", "ln", "rm"):
        counted = slurm.directory / program
        counted.write_text(DYING.format(number=0, real=shutil.which(program)))
        counted.chmod(0o755)
    hold_until_wait(transport, own, MANY - 1)
    directories = [attempt(own, number) for number in range(MANY)]
    with ThreadPoolExecutor(MANY) as threads:
        list(threads.map(lambda each: submit_once(Claims(own), each, of_an_asset(each)), directories))
    counts = {path.stem: len(path.read_text()) for path in slurm.directory.glob("*.count")}
    # The first came alone. The directory of the run, of the links, and for each request of its launch and of its part.
    requests = 2 + MANY // MOST
    assert counts["mkdir"] <= 2 + 2 * requests
    # Of each job the status; of each request its launches, the one in which the part lies, and its links.
    assert counts["mv"] <= MANY + 3 * requests
    # Of each request the part, and the transport's own.
    assert counts["rm"] <= 2 * requests
    assert "ln" not in counts
    assert links(own) == {f"asset-{each.key}": f"../runs/{each.relative}" for each in directories}
    assert not list(Path(own.base()).rglob("*.part*"))


@pytest.mark.parametrize("number", range(1, 9))
def test_whatever_dies_of_many_each_is_submitted_once(
    own: SlurmCluster, transport: Counting, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(claims_module, "_SUBMIT_PATIENCE_SECONDS", 1)
    directories = [attempt(own, each) for each in range(4)]
    dying = slurm.directory / "mv"
    dying.write_text(DYING.format(number=number, real=shutil.which("mv")))
    dying.chmod(0o755)
    lines = "".join(queued(f"4{at}", name=each.job_name()) for at, each in enumerate(directories))
    is_there = f'grep -q -e "--job-name=${{line##*|n1|}}" {slurm.directory}/calls'
    queue = f'while read -r line; do {is_there} && echo "$line|"; :; done'
    knows = "\n".join(line.rstrip("|") for line in lines.splitlines())
    (slurm.directory / "squeue").write_text(f"#!/bin/sh\n{queue} <<'END'\n{knows}\nEND\n")
    hold_until_wait(transport, own, 3)

    def submit(directory: RunDirectory) -> None:
        with suppress(DagsterSlurmError):
            submit_once(Claims(own), directory, of_an_asset(directory))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(submit, directories))
    assert len((slurm.directory / "mv.count").read_text()) >= number
    transport.hold = None
    handles = [submit_once(Claims(own), each, of_an_asset(each)) for each in directories]
    assert [handle.job_id for handle in handles] == ["40", "41", "42", "43"]
    assert len(calls(slurm)) == 4
    assert links(own) == {f"asset-{each.key}": f"../runs/{each.relative}" for each in directories}
    assert all({"job.sh", "work/payload.sh"} < set(made(each)) for each in directories)


def test_two_that_ask_for_one_claim_at_once_get_one_job(own: SlurmCluster, transport: Counting, slurm: Slurm) -> None:
    hold_until_wait(transport, own, 4)
    directories = [attempt(own, each) for each in (0, 1, 1, 2, 2)]
    with ThreadPoolExecutor(5) as threads:
        handles = list(threads.map(lambda each: submit_once(Claims(own), each, files_of(each)), directories))
    assert [handle.job_id for handle in handles] == ["40", "41", "41", "42", "42"]
    assert len(calls(slurm)) == 3


def test_a_part_that_is_removed_meanwhile_makes_no_claim(
    own: SlurmCluster, transport: Counting, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever removes a launch takes the part in it, and what is gone from there looks like what was moved."""
    hold_until_wait(transport, own, 2)
    remove = f"rm -rf {quote(own.base())}/runs/run/key*/0.part.*; mkdir -p {quote(attempt(own, 2).claim(0))}"
    mv = slurm.directory / "mv"
    mv.write_text(f'#!/bin/sh\n[ "$1" != -t ] || {{ {remove}; rm "$0"; }}\nexec {shutil.which("mv")} "$@"\n')
    mv.chmod(0o755)
    monkeypatch.setattr(claims_module, "_ASKED_SECONDS", 1)
    monkeypatch.setattr(claims_module, "_SUBMIT_PATIENCE_SECONDS", 1)

    def submit(number: int) -> tuple[str, int] | None:
        try:
            handle = submit_once(Claims(own), attempt(own, number), files_of(attempt(own, number)))
        except TransportError as error:
            assert f"Cannot write {attempt(own, number).claim(0)}: mv: cannot stat" in str(error)
            return None
        return handle.job_id, handle.generation

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(submit, range(3)))
    # The claim of another, whose sbatch never ran, is revoked before there is a next one.
    assert found == [("40", 0), None, ("42", 1)]
    assert submit(1) == ("41", 0)
    names = [line.split()[1] for line in calls(slurm)]
    assert names == [f"--job-name={name}" for name in ("key0", "key2.0.1", "key1")]


def test_a_run_that_is_terminated_while_its_request_is_on_its_way_gets_no_job(own: SlurmCluster, slurm: Slurm) -> None:
    directory = attempt(own)
    assert Claims(own).withdraw(directory, is_coming=True).jobs == {}
    with pytest.raises(AttemptClosedError):
        submit_once(Claims(own), directory, files_of(directory))
    assert not calls(slurm)
    # A retry begins the next one, and `clean` knows it.
    (record,) = look(own, [directory]).listing.attempts(directory).values()
    assert (record.protocol, record.is_closed, record.claims) == (str(PROTOCOL_VERSION), True, ())
    assert Reattachment(own).find(directory) == Known(following=1)
    # Of what nobody was about to make, nothing is made.
    Claims(own).withdraw(attempt(own, 1))
    assert not Path(attempt(own, 1).launch).exists()


def test_a_withdrawal_and_a_request_at_the_same_moment(own: SlurmCluster, slurm: Slurm) -> None:
    """Either is first: the job is known to the withdrawal, or it is not submitted."""
    for number in range(20):
        directory = attempt(own, number)
        found: list[str] = []

        def submit(directory: RunDirectory = directory, found: list[str] = found) -> None:
            with suppress(AttemptClosedError):
                found.append(submit_once(Claims(own), directory, files_of(directory)).job_id)

        thread = threading.Thread(target=submit)
        thread.start()
        time.sleep(number * 0.003)
        withdrawn = Claims(own).withdraw(directory, is_coming=True)
        thread.join()
        known = [*withdrawn.jobs, *withdrawn.job_names]
        assert bool(found) <= bool(known), number
        assert Path(directory.path, "claim", str(len(known))).is_symlink()


def test_one_that_takes_long_holds_nobody_up_and_is_told_of(
    own: SlurmCluster, transport: Counting, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "_ASKED_SECONDS", 1)
    hold_until_wait(transport, own, 3)
    slow = slurm.directory / "slow-key2"
    slow.write_text("the site takes one job a minute")
    told: list[str] = []
    ended: list[int] = []

    def submit(number: int) -> str:
        directory = attempt(own, number)
        job_id = submit_once(Claims(own), directory, files_of(directory), slow=told.append).job_id
        ended.append(number)
        return job_id

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(submit, number) for number in range(4)]
        eventually(lambda: len(ended) == 3, "the others")
        eventually(lambda: told, "a word of the one")
        assert 2 not in ended
        slow.unlink()
        assert [job.result() for job in jobs] == ["40", "41", "42", "43"]
    said = "sbatch on this machine has not ended after 1 s; it has printed 'sbatch: the site takes one job a minute'"
    assert set(told) == {said}
    assert len(calls(slurm)) == 4


WAITS_FOR_A_PLACE = "Slurm temporarily unable to accept job, sleeping and retrying"


@pytest.mark.parametrize(("said", "submissions"), [("the site takes one job a minute", 2), (WAITS_FOR_A_PLACE, 1)])
def test_one_that_waits_for_a_place_is_not_given_up_before_it_gives_up(
    own: SlurmCluster, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, said: str, submissions: int
) -> None:
    """A second one was submitted beside it after a minute, and of two jobs one was for nothing."""
    for name, seconds in (("_ASKED_SECONDS", 1), ("_SUBMIT_PATIENCE_SECONDS", 1)):
        monkeypatch.setattr(claims_module, name, seconds)
    slow = slurm.directory / "slow-key1"
    slow.write_text(said)
    told: list[str] = []

    def slowly(text: str) -> None:
        told.append(text)
        if len(told) > 1:
            slow.unlink(missing_ok=True)

    directory = attempt(own, 1)
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(submit_once, Claims(own), directory, files_of(directory), slow=slowly)
        eventually(lambda: len(calls(slurm)) == submissions and (told or submissions > 1), "sbatch")
        if submissions > 1:
            slow.unlink()
        assert job.result().job_id == "41"
    assert len(calls(slurm)) == submissions


def test_without_trees_nothing_outside_is_taken_for_one(own: SlurmCluster, slurm: Slurm) -> None:
    directory = attempt(own, 1)
    own.transport.put_tree(files_of(directory), directory.path)
    assert submit_once(Claims(own), directory).job_id == "41"
    assert len(calls(slurm)) == 1


@pytest.mark.parametrize(("size", "goes"), [(1000, True), (300_000, False)])
def test_what_is_small(tmp_path: Path, size: int, goes: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(size))
    assert are_small([TreeEntry("a", source)]) is are_small([TreeEntry("a", bytes(size))]) is goes
    source.unlink()
    assert not are_small([TreeEntry("a", source)])
