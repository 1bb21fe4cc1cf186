"""Hostile text through every parser, and hostile names through every place that makes a path of them.

A parser gives a value or a typed error, in bounded time and memory. A path is inside its directory. Neither list can
be forgotten: what looks like a parser, or returns a path, and is in none of them fails the last tests.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.scripted import ScriptedTransport
from tests.support.sources import parsed

from dagster_slurm.cli import seconds
from dagster_slurm.cluster import SlurmCluster, description, look, records, shared, slurm_cluster
from dagster_slurm.doctor import slurm as doctor_slurm
from dagster_slurm.doctor import storage, way, world
from dagster_slurm.environments import inventory, local_store, pixi_lock, pixi_pack, pixi_packs, target, uv_export
from dagster_slurm.errors import DagsterSlurmError, InvalidRequestError
from dagster_slurm.job import cancelling, questions, retrying
from dagster_slurm.pipes import partition_results, session
from dagster_slurm.process_identity import ProcessIdentity, parse_ps, parse_stat
from dagster_slurm.reconcile import decision
from dagster_slurm.run_directory import LaunchKey, RunDirectory
from dagster_slurm.slurm import (
    arrays,
    commands,
    hetjob,
    output,
    partitions,
    quantities,
    reasons,
    rejections,
    request,
    states,
)
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.staging import collect, plan
from dagster_slurm.transport import CompletedCommand, SSHConnection, base, ssh_connection, together
from dagster_slurm.transport.base import TreeEntry, reading
from dagster_slurm.transport.content import archive_tree

SOURCE = Path(__file__).parents[2] / "src" / "dagster_slurm"
EXAMPLES = 1000 if os.environ.get("FAULTS") == "all" else 40
# Of the processor, of one call: what is slow takes milliseconds, and what has no end is broken off.
MOST_SECONDS = 5.0
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Parser:
    """What reads text of somebody else.

    Args:
        read: Reads it.
        sample: What it is meant for.
        is_of_an_answer: Whether its callers have it in `reading(...)`, which makes the typed error.
        raises: What else is an answer of it, by its documentation.
    """

    read: Callable[[str], object]
    sample: str = ""
    is_of_an_answer: bool = False
    raises: tuple[type[Exception], ...] = ()


def lines(read: Callable[[list[str]], object]) -> Callable[[str], object]:
    return lambda text: read(text.splitlines())


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def entries(text: str) -> object:
    found = output.parse_squeue(text)
    return arrays.entries_of(found, [entry.array_job_id for entry in found])


def accounted(text: str) -> object:
    found = output.parse_sacct(text, commands.sacct_fields((22, 5)))
    return [record.has_start_near(0.0) for record in arrays.records_of(found, ["17", "18"]).values()]


def life(text: str) -> object:
    return ProcessIdentity.from_json(text).life()


def leased(text: str) -> object:
    run = SimpleNamespace(tags={decision.RETRY_PROCESS_TAG: text}, parent_run_id="p")
    return [each.life() for each in decision._retry_process(run)]  # type: ignore[arg-type]


def tags(text: str) -> object:
    found = target.target_of(text, platform=None)
    return found.tags() if found.python else found.markers


def classified(text: str) -> object:
    return [
        *(rejections.classify_error(command, 1, text, "login") for command in ("sbatch", "squeue", "sacct")),
        rejections.refused_option(text),
        rejections.may_wait_for_nodes(text),
        rejections.is_unknown_job(text),
        rejections.is_accounting_disabled(text),
    ]


def handled(text: str) -> object:
    """As the payload's messages are, in pieces."""
    handler = SimpleNamespace(
        handle_message=lambda message: message["method"],
        report_pipes_framework_exception=lambda *_: None,
    )
    reader = session.FedMessageReader("/messages", is_one_of_many=True)
    reader.attach(handler)  # type: ignore[arg-type]
    data = raw(text)
    for at in range(0, len(data), 997):
        reader.feed(data[at : at + 997])
    return reader.finish()


def locked(text: str) -> object:
    return pixi_lock.locked_packages(text, environment="default", platform="linux-64")


def of_uv(text: str) -> object:
    from dagster_slurm.environments.sources import read_toml

    path = local_store.directory() / "uv.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw(text))
    return read_toml(path)


def a_json(text: str) -> object:
    path = local_store.directory() / "some.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw(text))
    return pixi_pack._json("some.json", path)


SHARED = shared.SharedDirectory(Path("/nowhere"), clock=lambda: 100.0, era="e")
SQUEUE = "17|17|1,3-5%2|RUNNING|2026-11-22T09:58:57|Unknown|None|n1|key|/base/runs/a/b/0/work"
# What each of sacct's fields may hold; every other one is empty.
VALUES = {
    "JobID": "17_3",
    "JobIDRaw": "20",
    "JobName": "key",
    "State": "CANCELLED by 1000",
    "ExitCode": "1:0",
    "ElapsedRaw": "63",
    "Submit": "2026-11-22T09:58:57",
    "Start": "2026-11-22T09:58:57",
    "TotalCPU": "1-02:03:04.567",
    "AllocTRES": "cpu=2,mem=4G",
    "MaxRSS": "12345K",
}
SACCT = "|".join(VALUES.get(name, "") for name in commands.sacct_fields((22, 5)))
LOCK = json.dumps(
    {
        "version": 6,
        "environments": {
            "default": {"channels": [], "packages": {"linux-64": [{"conda": "https://c/x/linux-64/a.conda"}]}}
        },
        "packages": [{"conda": "https://c/x/linux-64/a.conda", "sha256": "0" * 64, "md5": "0" * 32, "depends": []}],
    }
)
PROCESS = {"host": "h", "boot_id": "b", "pid_namespace": "p", "pid": 17, "started": "4711", "machine": "m"}
FACTS = (
    'x86_64\nglibc 2.36\nprogram /usr/bin/pixi-unpack 0.7.10\n{"path": "/p", "version": [3, 11, 2], "glibc": [2, 36]}'
)
FED = '{"__dagster_pipes_version": "0.1", "method": "log", "params": {"message": "x", "level": "INFO"}}\n'
LISTING = "1.5\0d\tN\t1\truns/a\t\0d\tN\t1\truns/a/k\t\0d\tN\t1\truns/a/k/0\t\0\0runs/a/k/0/claim/0/status\x000\n"

PARSERS: Mapping[str, Parser] = {
    "cli.__init__:_read": Parser(
        lambda text: seconds(None, None, text),  # type: ignore[arg-type]
        "3d",
        raises=(click.BadParameter,),
    ),
    "cluster.description:Description.from_json": Parser(
        description.Description.from_json,
        description.Description("o", "r", process=ProcessIdentity(**PROCESS)).to_json(),
    ),
    "cluster.description:parse_marks": Parser(
        description.parse_marks,
        "start 17 0 12.5 n1 n[1-2]\nend 17 0 1 13.5 1 2 3 n1:died:1:2:3 submitted=1.5 cpus=2(x3) killed=0 told=TERM "
        "usage=20:1:5,37:2:-:90:1000\n",
    ),
    "cluster.look:_commands_of": Parser(
        lambda text: look._commands_of({"squeue 17,18": text}, raw(text)), "0\nx\n", is_of_an_answer=True
    ),
    "cluster.records:parse_listing": Parser(
        lambda text: records.parse_listing(raw(text), "/base"), LISTING, is_of_an_answer=True
    ),
    "cluster.shared:SharedDirectory.taken": Parser(
        lambda text: SHARED.taken(raw(text)), '{"era": "e", "at": 3, "said": {}}'
    ),
    "cluster.slurm_cluster:SlurmCluster._array_limit": Parser(
        lambda text: cluster(text).room_for_array(request.merge({}), 7, None), "MaxArraySize            = 1001"
    ),
    "cluster.slurm_cluster:_split_blocks": Parser(
        lambda text: slurm_cluster._split_blocks(raw(text)), "a 0 2\nxxb 5 1\ny", is_of_an_answer=True
    ),
    "cluster.slurm_cluster:foreign_part": Parser(
        lambda text: slurm_cluster.foreign_part(text, "7"), "7 755 directory/x"
    ),
    "doctor.slurm:parse_associations": Parser(lines(doctor_slurm.parse_associations), "c|a|p|q,r"),
    "doctor.storage:judge_writing": Parser(
        lambda text: storage.judge_writing("/base", world.read_facts(text)),
        "mode 700\nfile 600\nbase 755 me",
        is_of_an_answer=True,
    ),
    "doctor.storage:parse_quotas": Parser(lines(storage.parse_quotas), "/home 1* 2 3 4 5 6"),
    "doctor.storage:parse_room": Parser(
        lambda text: storage.parse_room(*[*text.split("\n"), "", ""][:2]),
        "/dev/x ext4 1 2 3 4% /home\n/dev/x 1 2 3 4% /home",
    ),
    "doctor.way:parse_ssh_config": Parser(
        lambda text: way.parse_ssh_config("login", text), "hostname h\nport 22\nproxycommand nc h 22\n"
    ),
    "doctor.world:read_facts": Parser(world.read_facts, "home /h\nuser me"),
    "environments.inventory:parse": Parser(
        lambda text: inventory.parse(text, "/env"),
        'now 1\nparts 1 2\nentry a current 1 2 {"title": "t"}',
        is_of_an_answer=True,
    ),
    "environments.pixi_lock:_parsed": Parser(locked, LOCK),
    "environments.pixi_pack:_elf_bytes": Parser(
        lambda text: pixi_pack._elf_bytes(raw(text)), "\x7fELF\x02\x01" + "\0" * 80
    ),
    "environments.pixi_pack:_json": Parser(a_json, '{"version": 1}', raises=(pixi_pack._BrokenError,)),
    "environments.sources:read_toml": Parser(of_uv, "[x]\ny = 1"),
    "environments.target:target_of": Parser(tags, FACTS, is_of_an_answer=True),
    "job.cancelling:Order.from_json": Parser(
        lambda text: cancelling.Order.from_json(text, "/base"),
        '{"attempts": ["a/k/0"], "jobs": [["a/k/0", "17", 0]]}',
        raises=(ValueError,),
    ),
    "job.questions:_ids_in": Parser(lambda text: questions._ids_in(raw(text)), '["17", "18"]'),
    "job.retrying:outcomes_from_json": Parser(
        lambda text: retrying.outcomes_to_json(retrying.outcomes_from_json(text)),
        '{"elements": [[{"state": "FAILED", "exit_code": 1, "node_list": "n1"}, [0, 1]]]}',
    ),
    "pipes.session:FedMessageReader._handle": Parser(handled, FED),
    "process_identity:ProcessIdentity.from_json": Parser(life, json.dumps(PROCESS), raises=(ValueError,)),
    "process_identity:parse_ps": Parser(parse_ps, "S Sun Nov 22 09:58:57 2026"),
    "process_identity:parse_stat": Parser(parse_stat, f"17 (a) b) S {' '.join(['1'] * 30)}", raises=(ValueError,)),
    "reconcile.decision:_retry_process": Parser(leased, json.dumps({"retry_of": "p", "process": json.dumps(PROCESS)})),
    "run_directory:RunDirectory.try_named": Parser(
        lambda text: RunDirectory("/base", "run", "key").try_named(text), "key.1.2"
    ),
    "slurm.arrays:tasks_of": Parser(lambda text: list(arrays.tasks_of(text)), "1,3-5,8-12:2%4"),
    "slurm.job_id:JobId.parse": Parser(lambda text: sorted([JobId.parse(text), JobId(1)]), "12_3.batch"),
    "slurm.reasons:limit_of": Parser(reasons.limit_of, "QOSMaxJobsPerUserLimit"),
    "slurm.hetjob:parse_partitions": Parser(hetjob.parse_partitions, "compute*|4\nlong|2\n"),
    "slurm.output:parse_job_id": Parser(output.parse_job_id, "17;cluster"),
    "slurm.output:parse_sacct": Parser(accounted, SACCT),
    "slurm.output:parse_slurm_version": Parser(output.parse_slurm_version, "slurm-wlm 22.05.8"),
    "slurm.output:parse_squeue": Parser(entries, SQUEUE),
    "slurm.output:parse_squeue_of_user": Parser(
        output.parse_squeue_of_user, "gpu|1:02|9:58|11:00|1|2|1G|N/A|17|17|N/A|RUNNING|N/A|N/A|None|n1|key|/x"
    ),
    "slurm.output:parse_start_estimate": Parser(
        output.parse_start_estimate, "sbatch: Job 17 to start at 2026-11-22T09:58:57+0000 using 1 processors"
    ),
    "slurm.partitions:parse_site": Parser(
        lambda text: partitions.choose(request.merge({}), partitions.parse_site(text)),
        "partition PartitionName=p MaxTime=1:00 MaxNodes=2 State=UP\nnodes p|2|8|1000|gpu:a:2|x|idle\ncharge a|b||c",
    ),
    "slurm.quantities:parse_elapsed_seconds": Parser(quantities.parse_elapsed_seconds, "1-02:03:04.567"),
    "slurm.quantities:parse_memory_bytes": Parser(quantities.parse_memory_bytes, "1.5Gn"),
    "slurm.quantities:parse_memory_mib": Parser(quantities.parse_memory_mib, "4G"),
    "slurm.quantities:parse_time_limit_seconds": Parser(quantities.parse_time_limit_seconds, "1-02:03:04"),
    "slurm.quantities:parse_timestamp": Parser(quantities.parse_timestamp, "2026-11-22T09:58:57"),
    "slurm.quantities:parse_tres": Parser(quantities.parse_tres, "cpu=2,mem=4G"),
    "slurm.reasons:parse_reason": Parser(reasons.parse_reason, "(ReqNodeNotAvail, UnavailableNodes:n[1-2])"),
    "slurm.rejections:classify_error": Parser(
        classified,
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    ),
    "slurm.request:parse_signal_before_timeout": Parser(request.parse_signal_before_timeout, "B:USR1@60"),
    "slurm.states:cancelled_by_uid": Parser(states.cancelled_by_uid, "CANCELLED by 1000"),
    "slurm.states:parse_job_state": Parser(states.parse_job_state, "RUNNING,COMPLETING"),
    "transport.base:whole_number": Parser(base.whole_number, "17", is_of_an_answer=True),
    "transport.ssh_connection:connection_fault": Parser(
        lambda text: ssh_connection.connection_fault(text, 255, host="login"), "Permission denied (publickey)."
    ),
    "transport.together:_parts": Parser(
        lambda text: together._parts(raw(text), b"nonce"), "out\nnonce 0\nout\nnonce 1\n", is_of_an_answer=True
    ),
}
# What is a step of a parser in the list, or of another test with hostile text: of which.
WITHIN: Mapping[str, str] = {
    "cluster.description:_cpus": "cluster.description:parse_marks",
    "cluster.description:_parse_figures": "cluster.description:parse_marks",
    "cluster.description:_parse_line": "cluster.description:parse_marks",
    "cluster.description:_parse_nodes": "cluster.description:parse_marks",
    "cluster.description:_seconds": "cluster.description:parse_marks",
    "slurm.efficiency:parse_samples": "cluster.description:parse_marks",
    "cluster.records:_attempt": "cluster.records:parse_listing",
    "cluster.records:_claim": "cluster.records:parse_listing",
    "cluster.records:_entries": "cluster.records:parse_listing",
    "cluster.records:_launch": "cluster.records:parse_listing",
    "environments.inventory:_said": "environments.inventory:parse",
    "environments.sources:_read": "environments.sources:read_toml",
    "environments.sources:toml": "environments.sources:read_toml",
    "environments.target:_python": "environments.target:target_of",
    "job.retrying:Outcome.from_value": "job.retrying:outcomes_from_json",
    "pipes.session:_is_opening": "pipes.session:FedMessageReader._handle",
    "process_identity:ProcessIdentity.from_mapping": "process_identity:ProcessIdentity.from_json",
    "run_directory:RunDirectory.from_relative": "job.cancelling:Order.from_json",
    "slurm.commands:_parsed": "slurm.job_id:JobId.parse",
    "slurm.job_id:JobId.find": "slurm.job_id:JobId.parse",
    "slurm.partitions:SitePartition.limit": "slurm.partitions:parse_site",
    "slurm.partitions:_gpus_in": "slurm.partitions:parse_site",
    "slurm.partitions:_node_kind": "slurm.partitions:parse_site",
    "slurm.output:_whole": "slurm.output:parse_squeue_of_user",
    "slurm.output:_number": "slurm.output:parse_sacct",
    "slurm.states:_parse_one": "slurm.states:parse_job_state",
}
# What reads what this machine, or its user, has written and nobody else may change: where that is kept.
OWN: Mapping[str, str] = {
    "compat.survey:_parsed": "the files of the project, of which none is run",
    "doctor.world:read_settings": "environment variables",
    "environments.pixi_packs:_read": "the store of packages",
    "environments.pixi_packs:unpackers": "the store of packages",
    "launchers.payload:payload_from_path": "a path of the call",
    "launchers.ray_program:join": "Ray's own client, on the cluster",
    "launchers.spark_program:alive": "Spark's own master, on the cluster",
    "new_project.check:fault_of_installation": "the project's own pyproject.toml",
    "new_project.source:direct_url": "what has installed this package",
    "pipes.dagster_private:continues_from_parent": "no text",
    "profiles:_values": "a package that is installed",
    "profiles:read_file": "a file that nobody else may write to",
    "process_identity:_epoch_of": "/proc/stat, and `parse_ps`",
    "process_identity:of_session": "/proc",
    "reconcile.runs:main": "the process that has started this one",
    "resources.io_manager:_Records.load_from_path": "records of the IO manager, in Dagster's storage",
    "resources.io_manager:_from_json": "records of the IO manager, in Dagster's storage",
    "slurm.partitions:_number": "options of the call, each of which was parsed",
    "slurm.request:_build": "options of the call, each of which was parsed",
    "staging.collect:Collector._list": "unit/cluster/test_hostile_login_node.py has it",
    "cluster.slurm_cluster:SlurmCluster.read_new": "unit/cluster/test_hostile_login_node.py has it",
    "work.memory_here:_figures": "/proc",
}
# -- what is sent

NUMBERS = [
    "0",
    "1",
    "9" * 25,
    "9" * 400,
    "9" * 5000,
    "-1",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "\u0664",
    "\u00b2",
    "0x1",
]
RANGES = ["0-99999999999", "1-2:0", "5-1", "[0-9999999999]", "17_[0-99999999]", "2.99999999999", "2_0"]
NAMES = ["..", "../..", "/etc/passwd", "a/../../b", "", ".", "-rf", "~", "$(id)", "a" * 5000]
NESTED = ["[" * 100_000, '{"a":' * 50_000, "(" * 50_000, "{" * 1000, "null", "NaN", "[]", "{}", '""', "[[1]]", "true"]
BYTES = [
    "\0",
    "\x1b[2J",
    "\ud800",
    "\r",
    "\n",
    "\t",
    "\x1c",
    "\u2028",
    "\ufeff",
    "|",
    ":",
    ";",
    ",",
    "=",
    "%",
    "+",
    '"',
    "'",
]
TIMES = ["0001-01-01T00:00:00", "9999-99-99T99:99:99", "9999-12-31T23:59:59", "Unknown"]
PIECES = st.one_of(*map(st.sampled_from, (NUMBERS, RANGES, NAMES, NESTED, BYTES, TIMES)), st.text(max_size=8))


@st.composite
def hostile(draw: st.DrawFn, sample: str) -> str:
    """What the parser is meant for with some words in the place of others, or nothing but such words."""
    if not draw(st.booleans()):
        return draw(st.sampled_from(["", " ", "\n", "|", ","])).join(draw(st.lists(PIECES, max_size=6)))
    words = re.split(r"(\W)", sample)
    for _ in range(draw(st.integers(1, 3))):
        words[draw(st.integers(0, len(words) - 1))] = draw(PIECES)
    return "".join(words)


class _Endless(BaseException):
    """No parser catches it."""


@contextmanager
def bounded() -> Iterator[None]:
    """Break off what has no end, and refuse it more memory than it can need."""

    def stop(*_: object) -> None:
        raise _Endless

    before = signal.signal(signal.SIGVTALRM, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    broken_off: list[str] = []
    try:
        yield
    except (_Endless, MemoryError) as error:
        # Without its traceback, which has no line where the signal came between two.
        broken_off.append(type(error).__name__)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGVTALRM, before)
    assert not broken_off, f"{broken_off}: it takes more than {MOST_SECONDS} s, or than {MOST_BYTES >> 20} MiB"


def read(parser: Parser, text: str) -> None:
    """It gives a value, or an error that is typed."""
    with suppress(DagsterSlurmError, *parser.raises), bounded():
        if not parser.is_of_an_answer:
            parser.read(text)
            return
        with reading("It"):
            parser.read(text)


REFUSED = b"""sbatch: error: Batch job submission failed: \
Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)
"""


def cluster(said: str) -> SlurmCluster:
    """One that takes no job now, and whose configuration is this."""

    def answer(script: str, args: Any, stdin: bytes) -> CompletedCommand:
        if "scontrol" in args:
            return CompletedCommand(raw(said), b"", 0)
        if "sbatch" in args:
            return CompletedCommand(b"", REFUSED, 1)
        return CompletedCommand(b"home /h\nuser me\nversion slurm 22.05.8\n", b"", 0)

    return SlurmCluster(ScriptedTransport(answer), remote_base="/base")


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("name", PARSERS)
def test_the_sample_is_read(name: str) -> None:
    """What is meant for it gives a value: it was no error that was tested."""
    if name != "cluster.slurm_cluster:SlurmCluster._array_limit":
        PARSERS[name].read(PARSERS[name].sample)


@pytest.mark.parametrize("name", PARSERS)
def test_a_value_or_a_typed_error(name: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(text=hostile(PARSERS[name].sample))
    def one(text: str) -> None:
        read(PARSERS[name], text)

    one()


# What had no end, took all memory, or raised what no caller expects.
KNOWN = [
    ("slurm.output:parse_squeue", SQUEUE.replace("1,3-5%2", "0-99999999999")),
    ("slurm.output:parse_squeue", SQUEUE.replace("1,3-5%2", "1-9:0")),
    ("slurm.output:parse_squeue", "1" * 60_000),
    ("slurm.output:parse_sacct", SACCT.replace("1-02:03:04.567", f"{'9' * 400}:00")),
    ("slurm.output:parse_sacct", SACCT.replace("17_3", f"{'9' * 5000}")),
    ("slurm.quantities:parse_memory_bytes", "9" * 400),
    ("slurm.output:parse_slurm_version", f"slurm {'9' * 5000}.1"),
    ("environments.target:target_of", FACTS.replace("[2, 36]", "[2, 999999999]")),
    ("environments.target:target_of", FACTS.replace("[3, 11, 2]", "[]")),
    ("doctor.storage:parse_room", " " * 60_000),
    ("doctor.storage:parse_quotas", "\n" * 60_000),
    ("slurm.partitions:parse_site", f"partition {'a' * 60_000}"),
    ("process_identity:ProcessIdentity.from_json", json.dumps({**PROCESS, "pid": 10**30})),
    ("job.cancelling:Order.from_json", '{"attempts": [5], "jobs": []}'),
    ("cluster.shared:SharedDirectory.taken", f'{{"era": "e", "said": 1, "at": -{"9" * 400}}}'),
]


@pytest.mark.parametrize(("name", "text"), KNOWN, ids=[f"{number}-{name}" for number, (name, _) in enumerate(KNOWN)])
def test_what_was_not_bounded_or_not_typed(name: str, text: str) -> None:
    read(PARSERS[name], text)


def test_a_cluster_without_arrays_is_one() -> None:
    """With `MaxArraySize=0` the number of tasks was halved for ever."""
    with pytest.raises(InvalidRequestError, match="no job arrays"), bounded():
        cluster("MaxArraySize = 0").room_for_array(request.merge({}), 7, None)


LONG = [" ", "\n", "a ", "1 ", "\n ", "1,", "1:", "(", "[", "|", "1|", "a=1 ", "9", "-", "\0", "\t1", "_[", "1\n", "~"]


@pytest.mark.parametrize("name", PARSERS)
def test_long_ones_take_no_longer_than_they_are(name: str) -> None:
    parser = PARSERS[name]
    for part in [*LONG, parser.sample, f"{parser.sample} ", f"{parser.sample}\n"]:
        read(parser, part * (30_000 // max(1, len(part))))
        read(parser, f"{parser.sample}{part * 15_000}" if len(part) < 3 else part)


# -- paths


def a_step(text: str) -> Any:
    """A step of Dagster's all of whose names are somebody else's."""
    key = SimpleNamespace(path=[text, text])
    instance = SimpleNamespace(storage_directory=lambda: "/root/storage")
    return SimpleNamespace(asset_keys=[key], partition_keys=[text], key=text, is_of_graph=True, instance=instance)


def destination(text: str) -> object:
    """As `collect` does: the name was looked at before."""
    outputs = plan.Outputs({"a/*": Path("/root/to")})
    return outputs.destination("a/*", base.name_below(text), Path("/root/default"))


def partial_file(text: str) -> object:
    return collect.RemoteFile(text, 1, "0" * 64, Path("/root/to") / base.name_below(text)).partial


def sent(text: str) -> list[object]:
    """What tar(1) makes of a tree that is sent."""
    archive = archive_tree([TreeEntry(text, b"x")])
    with pixi_pack.tarfile.open(fileobj=io.BytesIO(b"".join(archive.blocks()))) as tar:
        return [f"/root/{name}" for name in tar.getnames()]


def of_a_lock(text: str) -> object:
    found = json.loads(LOCK.replace("a.conda", "NAME"))
    changed = json.loads(json.dumps(found).replace("NAME", json.dumps(text)[1:-1]))
    (package,) = pixi_lock.locked_packages(json.dumps(changed), environment="default", platform="linux-64")
    return Path("/root") / pixi_packs.cached_name(package) if package.is_file else []


def of_a_wheel(text: str) -> object:
    return Path("/root/wheels") / uv_export._sha256("x", {"sha256": text})


def of_a_pack(text: str) -> object:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as into, suppress(pixi_pack._BrokenError):
        return Path("/root") / pixi_pack._kept(text, io.BytesIO(b"x"), Path(into)).name
    return []


def remote(text: str) -> list[object]:
    key = LaunchKey(text, text, (text,), text)
    directory = key.first_attempt("/root")
    return [directory.path, directory.launch, directory.script, f"/root/{directory.job_name()}"]


# What is made of a name that is somebody else's: of Dagster, of a login node, of a lock. All are below /root.
PATHS: Mapping[str, Callable[[str], object]] = {
    "environments.pixi_packs:cached_name": of_a_lock,
    "environments.pixi_pack:_kept": of_a_pack,
    "environments.uv_export:_sha256": of_a_wheel,
    "pipes.partition_results:outputs_directory": lambda text: partition_results.outputs_directory(
        a_step(text), "", text
    ),
    "pipes.partition_results:results_directory": lambda text: partition_results.results_directory(a_step(text)),
    "pipes.partition_results:result_name": lambda text: Path("/root") / partition_results.result_name(text, text),
    "run_directory:LaunchKey": remote,
    "run_directory:RunDirectory.from_relative": lambda text: RunDirectory.from_relative("/root", text).path,
    "staging.collect:RemoteFile.partial": partial_file,
    "staging.plan:Outputs.destination": destination,
    "environments.inventory:parse": lambda text: [
        each.path for each in inventory.parse(f"entry {text} current 1 2 x", "/root").entries
    ],
    "transport.content:archive_tree": sent,
    "transport.ssh_connection:SSHConnection.control_path": lambda text: SSHConnection(
        text or "h", user=text or None, control_dir="/root"
    ).control_path(),
}
# Functions that return a path, and get no name of somebody else.
OF_THIS_MACHINE: Mapping[str, str] = {
    "environments.local_store:directory": "DAGSTER_SLURM_CACHE_DIR",
    "environments.local_store:kept": "of digests, which `PATHS` has",
    "environments.local_store:stored": "of digests, which `PATHS` has",
    "environments.pixi:PixiRecipe._local": "a local package that the project's own lock names",
    "environments.pixi:PixiRecipe._run": "a file of the packer, in a directory of its own",
    "environments.pixi:_cache": "the packer's variables",
    "environments.pixi_packs:_content": "of digests",
    "environments.uv_export:lock_path": "the project",
    "environments.uv_export:member_at": "the project",
    "environments.uv:_as_locked": "a local wheel that the project's own lock names",
    "environments.uv:locked.fetch": "of digests, and a local wheel that the project's own lock names",
    "job.connection:_shared_place": "a digest of the connection",
    "job.connection:shared_directory": "the user's number",
    "launchers.payload:existing_file": "a path of the call",
    "launchers.spark_program:spark_home": "the cluster's own",
    "new_project.__init__:write_project": "a path of the command line",
    "staging.on_this_machine:_free": "a path of `PATHS`",
    "staging.on_this_machine:_with_parents": "a path of `PATHS`",
    "staging.on_this_machine:used_in_place": "a path of this user, in mode `local`",
    "staging.plan:_local_directory": "a path of the call",
    "transport.openssh:ControlMaster._record": "beside the socket, which `PATHS` has",
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_inside_its_directory(name: str) -> None:
    @settings(max_examples=4 * EXAMPLES, deadline=None, database=None)
    @given(text=st.one_of(st.text("./~a\n\\ \0\x1b%", max_size=9), st.sampled_from(NAMES), st.text(max_size=9)))
    def one(text: str) -> None:
        try:
            with reading("It"):
                made = PATHS[name](text)
        except DagsterSlurmError:
            return
        for path in made if isinstance(made, list) else [made]:
            parts = PurePosixPath(str(path)).parts
            assert parts[:2] == ("/", "root") or str(path).startswith("/tmp/dagster-slurm-"), path
            assert ".." not in parts and len(parts) > 2 and "\0" not in str(path), path

    one()


# -- the lists are whole

_NAMED = re.compile(r"_?parse|.*from_(json|mapping|value|relative)|_?read_(facts|settings|toml)")
_DECODERS = {"loads", "load", "safe_load", "fromhex", "strptime", "unpack", "unpack_from", "fromisoformat"}
_SPLITTERS = {"split", "splitlines", "partition", "rpartition", "fullmatch", "findall"}


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """All of a module, by their names in it."""

    def below(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for each in ast.iter_child_nodes(node):
            if isinstance(each, ast.FunctionDef):
                yield f"{prefix}{each.name}", each
            if isinstance(each, ast.FunctionDef | ast.ClassDef):
                yield from below(each, f"{prefix}{each.name}.")

    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    return ((f"{module}:{name}", node) for name, node in below(parsed(path), ""))


@cache
def everything() -> list[tuple[str, ast.FunctionDef]]:
    return [found for path in sorted(SOURCE.rglob("*.py")) for found in functions(path)]


def looks_like_a_parser(name: str, node: ast.FunctionDef) -> bool:
    calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    methods = {each.attr for each in calls if isinstance(each, ast.Attribute)}
    takes_numbers = any(isinstance(each, ast.Name) and each.id in ("int", "float") for each in calls)
    is_named = bool(_NAMED.match(node.name))
    return is_named or bool(methods & _DECODERS) or (takes_numbers and bool(methods & _SPLITTERS))


def test_every_parser_is_in_the_list() -> None:
    """By its name, or since it takes numbers out of parts of a text, or decodes one."""
    found = {name for name, node in everything() if looks_like_a_parser(name, node)}
    assert sorted(found - PARSERS.keys() - WITHIN.keys() - OWN.keys()) == []
    # What is in a list is there.
    there = {name for name, _ in everything()}
    assert sorted({*PARSERS, *WITHIN, *OWN} - there) == []
    assert {*WITHIN.values()} <= PARSERS.keys()


def test_every_place_that_makes_a_path_is_in_the_list() -> None:
    found = {name for name, node in everything() if node.returns and ast.unparse(node.returns).split(" ")[0] == "Path"}
    assert sorted(found - PATHS.keys() - OF_THIS_MACHINE.keys()) == []
    assert sorted(OF_THIS_MACHINE.keys() - found) == []
