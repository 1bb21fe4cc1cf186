"""Whatever a login node answers ends in a value or in a typed error, and nothing it names is a path of this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.scripted import ScriptedTransport

from dagster_slurm.cluster import FilePosition, SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.look import Ask, look, look_at_all
from dagster_slurm.environments.inventory import Shelf
from dagster_slurm.environments.target import target_of
from dagster_slurm.errors import DagsterSlurmError, OutputNotFoundError, UnreadableAnswerError
from dagster_slurm.housekeeping.leftovers import remove, sizes_kib
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import merge
from dagster_slurm.staging import DataOptions, plan_staging
from dagster_slurm.staging import collect as collecting
from dagster_slurm.staging.collect import Collector
from dagster_slurm.staging.store import InputStore
from dagster_slurm.transport import CompletedCommand, LocalTransport
from dagster_slurm.transport import channel as channels
from dagster_slurm.transport.base import reading
from dagster_slurm.transport.shell import verb
from dagster_slurm.transport.together import together

DIRECTORY = RunDirectory("/base", "run", "key")
EVERYTHING = ["*", "**", ".*", "*/*", ".*/*", "*/*/*", "**/evil", ".*/evil", "*/*/evil"]


def listing(*names: str) -> bytes:
    return b"".join(f"4 1 {name}\0".encode() for name in names)


def a_cluster(listed: bytes, *, content: bytes = b"evil", sums: bytes | None = None) -> SlurmCluster:
    """One that lists such files in a working directory, each with the same content."""
    names = ("data_list", "data_sums", "data_read")
    scripts = {verb(name, "dagster_slurm.cluster_scripts"): name for name in names}

    def answer(script: str, args: Sequence[str], stdin: bytes) -> CompletedCommand:
        count = stdin.count(b"\0")
        line = b"%s  -\n" % hashlib.sha256(content).hexdigest().encode()
        said = {
            "data_list": listed,
            "data_sums": line * count if sums is None else sums,
            "data_read": content * count,
        }
        return CompletedCommand(said.get(scripts.get(script, ""), b""), b"", 0)

    return SlurmCluster(ScriptedTransport(answer), remote_base="/base")


def collect(cluster: SlurmCluster, to: Path) -> None:
    for pattern in EVERYTHING:
        staging = plan_staging(DataOptions(outputs=[pattern]))
        Collector(cluster, staging, work="/base/work", job_id="7", tell=lambda text: None).collect(
            outputs_dir=to, result="x"
        )


class TestNamesOfOutputs:
    """A file is put below the directory for outputs, or nowhere."""

    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(collecting, "_LOOKS", 1)

    @pytest.mark.parametrize(
        "name",
        ["../evil", "..", ".", "a/../../evil", "./../evil", "{outside}/evil", "//evil", "a//evil", "a/./evil", ""],
    )
    def test_one_that_leads_elsewhere_is_refused_by_name(self, tmp_path: Path, name: str) -> None:
        outside, to = tmp_path / "outside", tmp_path / "to" / "outputs"
        outside.mkdir()
        name = name.format(outside=outside)
        with pytest.raises(UnreadableAnswerError, match="not the name of a file") as caught:
            collect(a_cluster(listing("good", name)), to)
        assert repr(name.removeprefix("./")) in str(caught.value)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_a_link_here_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        own, to = tmp_path / "own", tmp_path / "to"
        own.write_text("mine")
        to.mkdir()
        (to / "good").symlink_to(own)
        with suppress(OutputNotFoundError):
            collect(a_cluster(listing("good")), to)
        assert own.read_text() == "mine"
        assert ((to / "good").read_text(), (to / "good").is_symlink()) == ("evil", False)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
    @given(names=st.lists(st.text("./~a\n\\ \t\x1b", min_size=1, max_size=8), max_size=3))
    def test_any(self, tmp_path: Path, names: list[str]) -> None:
        to = tmp_path / "to" / "outputs"
        with_error(partial(collect, a_cluster(listing(*names)), to))
        outside = [path for path in tmp_path.rglob("*") if path.is_file() and to not in path.parents]
        assert outside == []

    @pytest.mark.parametrize("sums", [b"", b"../../evil  -\n", b"x" * 64 + b"  -\n", b"\xff\n", b"a\nb\nc\n"])
    def test_what_is_no_checksum_becomes_no_name(self, tmp_path: Path, sums: bytes) -> None:
        with pytest.raises(UnreadableAnswerError, match="checksums"):
            collect(a_cluster(listing("good"), sums=sums), tmp_path)

    @pytest.mark.parametrize("listed", [b"x", b"4 1\0", b"-4 1 good\0", b"4 never good\0", "٤ 1 good\0".encode()])
    def test_a_list_of_another_form(self, tmp_path: Path, listed: bytes) -> None:
        with pytest.raises(UnreadableAnswerError, match="list of files"):
            collect(a_cluster(listed), tmp_path)


def with_error(call: Callable[[], object]) -> DagsterSlurmError | None:
    """The typed error of a call; any other one goes on."""
    try:
        call()
    except DagsterSlurmError as error:
        return error
    return None


VERBS: dict[str, Callable[[SlurmCluster], object]] = {
    "facts": lambda cluster: cluster.facts(),
    "check": lambda cluster: cluster.check(merge({"partition": "p", "account": "a"})),
    "room": lambda cluster: cluster.room_for_array(merge({}), 7, None),
    "start": lambda cluster: cluster.start_estimate(merge({})),
    "queue": lambda cluster: cluster.queue(["17"]),
    "queue of user": lambda cluster: cluster.queue_of_user(),
    "accounting": lambda cluster: cluster.accounting(["17"]),
    "cancel": lambda cluster: cluster.cancel(["17"]),
    "present": lambda cluster: cluster.present("/base", ["a"], ["/b"]),
    "new": lambda cluster: cluster.read_new([FilePosition("a", 0)], max_bytes=10),
    "layout": lambda cluster: cluster.environment_layout("/env"),
    "look": lambda cluster: look(cluster, [DIRECTORY], ask=Ask.JOBS),
    "look at all": look_at_all,
    "submit": lambda cluster: Claims(cluster).try_to_submit(DIRECTORY, generation=0),
    "settle": lambda cluster: Claims(cluster).settle(DIRECTORY, generation=0),
    "withdraw": lambda cluster: Claims(cluster).withdraw(DIRECTORY),
    "close": lambda cluster: Claims(cluster).close(DIRECTORY, generation=0),
    "environments": lambda cluster: Shelf(cluster).inventory(),
    "sizes": lambda cluster: sizes_kib(cluster, ["run/key"]),
    "remove": lambda cluster: remove(cluster, ["launch run/key x"]),
    "inputs": lambda cluster: InputStore(
        cluster, plan_staging(DataOptions(inputs=[__file__])).inputs, lambda text: None
    ).upload(),
}
WORDS = (
    b"",
    b"made 0\n17\n",
    b"made\n",
    b"made x\n",
    b"id\n",
    b"id 17 x\n",
    b"name x\n",
    b"a 0 -9\n",
    b"a 0\n",
    b"a 0 1\n",
    b"there a\n",
    b"there a b\n",
    b"home /h\nuser me\nversion slurm 22.05.8\n",
    b"x\0\0",
    b"1\0\0",
    b"1\0d\td\tx\truns/a\t\0\0",
    b"1\0d\td\t1\truns/a/b\t\0d\td\t1\truns/a/b/0\t\0\0runs/a/b/0/claim/0/status\0x\n",
    b"1\0\0squeue 17\0x\nfoo\n",
    b"now x\n",
    b"parts 1\n",
    b"entry a\n",
    b"entry a b c d e\n",
    b"content a\n",
    b"path /x\n",
    b"17|17|N/A|RUNNING|N/A|N/A|None||key|/base\n",
    b"17|17|COMPLETED\n",
    b"\xff\xfe\0\r\n|||\x1b[2J",
)


@pytest.mark.parametrize("name", VERBS)
@settings(max_examples=60, deadline=None)
@given(answers=st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=60)), min_size=1, max_size=4))
def test_any_answer_to_any_verb(name: str, answers: list[bytes]) -> None:
    said = iter(answers * 50)
    facts = verb("facts", "dagster_slurm.cluster_scripts")

    def answer(script: str, args: Sequence[str], stdin: bytes) -> CompletedCommand:
        if script == facts and name != "facts":
            return CompletedCommand(b"home /h\nuser me\nversion slurm 22.05.8\n", b"", 0)
        return CompletedCommand(next(said, b""), next(said, b""), 0)

    with_error(partial(VERBS[name], SlurmCluster(ScriptedTransport(answer), remote_base="/base")))


@pytest.mark.parametrize("facts", ["", "{}", "x86_64\n{", 'x86_64\n{"glibc": 7}', "\0", "x86_64\n{}"])
def test_a_machine_that_says_nonsense_of_itself(facts: str) -> None:
    with pytest.raises(DagsterSlurmError), reading("The machine"):
        target_of(facts, platform=None)


def test_a_block_of_negative_length_ends() -> None:
    """It sent the reader back to where it had been, for ever."""
    transport = ScriptedTransport(lambda script, args, stdin: CompletedCommand(b"a 0 -6\n", b"", 0))
    with pytest.raises(UnreadableAnswerError, match="not a whole number"):
        SlurmCluster(transport, remote_base="/base").read_new([FilePosition("a", 0)], max_bytes=10)


class TestEndlessAnswers:
    """They are broken off, and the next request is answered."""

    @pytest.fixture(autouse=True)
    def _little(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channels, "MOST_BYTES", 1 << 20)

    @pytest.mark.parametrize("script", ["yes 17", "yes >&2", "cat /dev/zero"])
    def test_of_a_command(self, script: str) -> None:
        transport = LocalTransport(channels=1)
        with pytest.raises(UnreadableAnswerError, match="more than 1 MiB"):
            transport.run(script)
        assert transport.run("echo on").text == "on\n"
        with pytest.raises(UnreadableAnswerError, match="more than 1 MiB"):
            together(transport).run("head -c 3000000 /dev/zero")
        transport.close()
