"""The one reader: how pieces of work lie on a cluster, and what Slurm says of their jobs, in one round trip.

What is seen was so when it was looked at. Nothing here decides or changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import Enum

from dagster_slurm.cluster.records import Listing, parse_listing
from dagster_slurm.cluster.slurm_cluster import SlurmCluster
from dagster_slurm.errors import ConnectionFailedError, SlurmCommandError
from dagster_slurm.run_directory import RunDirectory, part_of_job
from dagster_slurm.slurm import commands, output
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.transport import CompletedCommand
from dagster_slurm.transport.base import reading
from dagster_slurm.transport.shell import verb
from dagster_slurm.transport.together import together


class Ask(Enum):
    """What Slurm is asked about the attempts that are not closed."""

    NOTHING = "nothing"
    LOST = "squeue by name, for jobs whose ids nobody was told"
    JOBS = "this, and squeue and sacct for the others"


@dataclass(frozen=True)
class SlurmAnswers:
    """What Slurm said of the jobs of attempts that are not closed, and of the tasks of arrays among them.

    Args:
        queue: squeue's entries, by job id.
        queue_asked: The ids about which it was asked: one that it does not have has left the queue.
        names: squeue's entries of jobs whose ids nobody was told, by name; None for one that it does not know.
        accounting: sacct's records, by job id, of jobs that squeue has not as going on. It may lag behind.
        own: All of the user's entries, where nothing lies there of a launch that may have a job.
        is_accounting_off: Whether the cluster keeps none.
    """

    queue: Mapping[str, QueueEntry] = field(default_factory=dict)
    queue_asked: frozenset[str] = frozenset()
    names: Mapping[str, QueueEntry | None] = field(default_factory=dict)
    accounting: Mapping[str, AccountingRecord] = field(default_factory=dict)
    own: tuple[QueueEntry, ...] = ()
    is_accounting_off: bool = False


@dataclass(frozen=True)
class Look:
    """What was seen."""

    listing: Listing
    slurm: SlurmAnswers = field(default_factory=SlurmAnswers)


def look(
    cluster: SlurmCluster,
    launches: Sequence[RunDirectory],
    *,
    asset_digest: str = "",
    ask: Ask = Ask.NOTHING,
    may_be_lost: str = "",
) -> Look:
    """Some pieces of work, with those from which they have adopted an attempt.

    Args:
        cluster: The cluster.
        launches: Any attempts at them.
        asset_digest: Stands for an asset and partition whose newest attempt is to be shown as well; empty for none.
        ask: What to ask Slurm. It is not asked about what is not there, or closed.
        may_be_lost: The key of a launch of which there may be a job though nothing lies there; empty for none.

    Raises:
        TransportError: The cluster could not be reached, or its directories not be read, or they are somebody else's.
        SlurmUnavailableError: squeue does not answer.
    """
    roots = [f"runs/{launch.run}/{launch.key}" for launch in launches]
    roots += [f"assets/{asset_digest}"] if asset_digest else []
    roots += [f"lost/{may_be_lost}"] if may_be_lost else []
    if ask is Ask.JOBS:
        cluster.refuse_foreign_base()
    squeue = "" if ask is Ask.NOTHING else " ".join(commands.squeue_of_own())
    sacct = " ".join(commands.sacct_of_any(cluster.facts().version, tres=False)) if ask is Ask.JOBS else ""
    script = verb("look", "dagster_slurm.cluster_scripts")
    answer = together(cluster.transport).run(script, (cluster.base(), squeue, sacct, *roots))
    _refuse(cluster, answer)
    if not answer.stdout:
        return Look(Listing(0.0))
    with _reading(cluster):
        listing, answers = parse_listing(answer.stdout, cluster.base())
        commands_run, parts = _commands_of(answers, answer.stderr), _tasks(listing)
    return Look(listing, _slurm_answers(cluster, commands_run, parts))


def look_at_all(cluster: SlurmCluster) -> Listing:
    """Everything that lies on a cluster. Slurm is not asked.

    Raises:
        TransportError: The cluster could not be reached, or its directories not be read.
    """
    answer = cluster.script("look", (cluster.base(), "", "", "runs", "assets"))
    _refuse(cluster, answer)
    with _reading(cluster):
        return parse_listing(answer.stdout, cluster.base())[0]


def _reading(cluster: SlurmCluster) -> AbstractContextManager[None]:
    return reading(f"The look at {cluster.base()}", host=cluster.host)


def _refuse(cluster: SlurmCluster, answer: CompletedCommand) -> None:
    """What was not read is not known; it is not "not there"."""
    if answer.returncode:
        raise ConnectionFailedError(f"The look at {cluster.base()} was cut off: {answer.reason}", host=cluster.host)


def _commands_of(answers: Mapping[str, str], stderr: bytes) -> dict[str, tuple[list[str], CompletedCommand]]:
    """What was asked about, and the answer, by `squeue`, `names` and `sacct`, in the order in which they were asked."""
    found = {}
    for (name, text), errors in zip(answers.items(), stderr.split(b"\0"), strict=False):
        status, _, printed = text.partition("\n")
        command, _, about = name.partition(" ")
        found[command] = (about.split(","), CompletedCommand(printed.encode(), errors, int(status)))
    return found


def _tasks(listing: Listing) -> dict[str, list[str]]:
    """The ids of the parts of arrays, heterogeneous jobs and sessions, by what squeue is asked about."""
    tasks: dict[str, list[str]] = {}
    for attempt in (attempt for launch in listing.launches for attempt in launch.attempts if attempt.claims):
        whole, told = attempt.claims[-1].job_id, attempt.description
        job_id = JobId.find(whole)
        if job_id is not None and (job_id.is_request or told.elements):
            parts = [part_of_job(whole, element, told.components) for element in range(len(told.elements))]
            tasks.setdefault(job_id.in_queue, []).extend([whole, *parts] if job_id.is_request else parts)
    return tasks


def _slurm_answers(
    cluster: SlurmCluster,
    answers: Mapping[str, tuple[list[str], CompletedCommand]],
    tasks: Mapping[str, Sequence[str]],
) -> SlurmAnswers:
    nothing: tuple[list[str], CompletedCommand] = ([], CompletedCommand(b"", b"", 0))
    names, by_name = answers.get("names", nothing)
    cluster.refuse("squeue", by_name)
    entries = output.parse_squeue(by_name.text)
    # Of the components of a heterogeneous job, which have one name, the leader has the lowest number.
    in_order = sorted(entries, key=lambda entry: JobId.parse(entry.job_id))
    named = {name: next((entry for entry in in_order if entry.name == name), None) for name in names}
    _, lost = answers.get("lost", nothing)
    cluster.refuse("squeue", lost)
    own = tuple(output.parse_squeue(lost.text))
    asked, by_id = answers.get("squeue", nothing)
    job_ids = [*asked, *(task for job_id in asked for task in tasks.get(job_id, ()))]
    said = SlurmAnswers(cluster.entries_in(by_id, job_ids), frozenset(job_ids), named, own=own)
    return _with_accounting(cluster, said, *answers["sacct"]) if "sacct" in answers else said


def _with_accounting(
    cluster: SlurmCluster, said: SlurmAnswers, job_ids: Sequence[str], answer: CompletedCommand
) -> SlurmAnswers:
    try:
        records = cluster.records_in(answer, job_ids)
    except SlurmCommandError as error:
        # No sacct on the login node is as good as no accounting.
        return replace(said, is_accounting_off=error.is_missing_program)
    return replace(said, accounting=records or {}, is_accounting_off=records is None)
