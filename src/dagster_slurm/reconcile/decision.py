"""What became of a run whose process is gone: what is known of it, what follows, and how it is marked."""

from __future__ import annotations

import enum
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dagster import DagsterError, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from dagster_slurm.pipes.dagster_private import EngineEvent, engine_events, is_step_over
from dagster_slurm.pipes.dagster_runs import free_pool_slots, mark_failed, mark_succeeded, steps_left
from dagster_slurm.pipes.run_notes import NOT_KNOWN, leases_of
from dagster_slurm.process_identity import Life, ProcessIdentity, Vantage, may_have_been


@dataclass(frozen=True)
class ReconciledRun:
    """A run that was looked at.

    Args:
        run_id: The run.
        job_name: Its job.
        verdict: What was found.
        done: What was found and done, in a sentence for people.
        settled: Whether nothing is left to do for it here: it runs, it was finished, or somebody else finishes it.
        retry_run_id: The run that finishes it, if there is one.
    """

    run_id: str
    job_name: str
    verdict: Verdict
    done: str
    settled: bool = True
    retry_run_id: str | None = None

    def __str__(self) -> str:
        return f"{self.run_id} {self.job_name}: {self.done}"


IN_PROGRESS = (
    # Not yet started counts for retries only that this package recorded: they are leased from the beginning.
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)


class Verdict(str, enum.Enum):
    """What was found about a run."""

    RUNNING = "running"
    """At least one of its processes lives."""
    ORPHANED = "orphaned"
    """Dagster holds it for running, and none of its processes lives."""
    ELSEWHERE = "elsewhere"
    """A process of it is of another machine or PID namespace, and is not known to be gone."""
    NOT_LEASED = "not leased"
    """No process said that it works on it: it is no run of ours, or had not come that far."""
    UNFINISHED = "unfinished"
    """It was marked failed, and its retry has not been made."""
    CANCELLING = "cancelling"
    """It was terminated, and its jobs could not be cancelled then."""
    OVER = "over"
    """It has ended, and nothing is left to do for it."""


class Ending(enum.Enum):
    """How an orphaned run is marked."""

    CANCELED = "canceled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


def verdict_of(lives: Sequence[Life], *, children_may_live: bool) -> Verdict:
    """What the processes of a run that is in progress say about it.

    Args:
        lives: What is known of each leased process.
        children_may_live: Whether an executor's child without a lease may still be at work on a step.
    """
    if not lives:
        return Verdict.NOT_LEASED
    if Life.ALIVE in lives:
        return Verdict.RUNNING
    if Life.UNKNOWN in lives:
        return Verdict.ELSEWHERE
    return Verdict.RUNNING if children_may_live else Verdict.ORPHANED


def ending_of(status: DagsterRunStatus, steps_left: Sequence[str] | None) -> Ending:
    """How an orphaned run ends.

    Args:
        status: What Dagster holds it for.
        steps_left: The steps that a re-execution from failure would execute; None if that cannot be told.
    """
    if status is DagsterRunStatus.CANCELING:
        # The user wanted it to end. That stands, whatever had been done until then.
        return Ending.CANCELED
    if steps_left is not None and not steps_left:
        # It died between its last step and the note that it succeeded. As a failed run it could never be finished:
        # Dagster refuses to retry nothing ("No steps needed to be retried in the failed run").
        return Ending.SUCCEEDED
    return Ending.FAILED


RETRY_PROCESS_TAG = ".dagster/slurm_retry_process"
"""On a retry that this package recorded: the process that executes it. Dagster's UI hides tags of this prefix."""


@dataclass(frozen=True)
class Evidence:
    """What was found about a run, and in which words."""

    verdict: Verdict
    words: str


def retry_process_tag(parent_run_id: str) -> dict[str, str]:
    """The tag that leases a retry to this process, from the moment it is recorded.

    It names the parent, because the daemon copies tags: on a retry of the retry it means nothing.
    """
    lease = {"retry_of": parent_run_id, "process": ProcessIdentity.of_this_process().to_json()}
    return {RETRY_PROCESS_TAG: json.dumps(lease)}


def judged(instance: DagsterInstance, run: DagsterRun, *, gone_hosts: Collection[str], named: bool) -> Evidence:
    """What is known of a run that is in progress.

    Args:
        instance: Where it is.
        run: The run.
        gone_hosts: Machines none of whose processes lives, as the user says.
        named: Whether the user named this run; then Dagster's own notes count where there is no lease.
    """
    processes = [*_retry_process(run), *leases_of(instance, run.run_id)]
    if not processes:
        return _judged_by_numbers(instance, run) if named else Evidence(Verdict.NOT_LEASED, "no process leased it")
    lives = [_life(each, gone_hosts) for each in processes]
    children = _children_that_may_live(instance, run, processes)
    verdict = verdict_of(lives, children_may_live=bool(children))
    return Evidence(verdict, _words(verdict, list(zip(processes, lives, strict=True)), children))


def _life(process: ProcessIdentity, gone_hosts: Collection[str]) -> Life:
    life = process.life()
    # What can be seen to live lives, whatever is said of its host.
    return Life.GONE if life is Life.UNKNOWN and process.host in gone_hosts else life


def _retry_process(run: DagsterRun) -> Iterator[ProcessIdentity]:
    text = run.tags.get(RETRY_PROCESS_TAG)
    try:
        lease = json.loads(text) if text else {}
        if lease and lease["retry_of"] == run.parent_run_id:
            yield ProcessIdentity.from_json(lease["process"])
    except (ValueError, LookupError, TypeError, RecursionError):
        # Anybody may write tags. It says that there is one.
        yield NOT_KNOWN


def _children_that_may_live(instance: DagsterInstance, run: DagsterRun, leased: list[ProcessIdentity]) -> list[int]:
    """The executor's children that have no lease, since their steps need no cluster, and may still be at work.

    Only numbers are known of them. They are of the machine of the leases, and of its last boot or an earlier one.
    """
    here = Vantage.here()
    if not any(each.boot_id == here.boot_id and each.pid_namespace == here.pid_namespace for each in leased):
        return []
    is_over = is_step_over(instance, run.run_id)
    known = {each.pid for each in leased}
    started = engine_events(instance, run.run_id, DagsterEventType.STEP_WORKER_STARTED)
    open_ones = (event for event in started if event.step_key is None or not is_over(event.step_key))
    return [pid for pid in _living(open_ones) if pid not in known]


def _judged_by_numbers(instance: DagsterInstance, run: DagsterRun) -> Evidence:
    """By the pids that Dagster notes: without a host they say something only if the run is known to be of this one."""
    of_both = (DagsterEventType.ENGINE_EVENT, DagsterEventType.STEP_WORKER_STARTED)
    events = [
        event for kind in of_both for event in engine_events(instance, run.run_id, kind) if "pid" in event.metadata
    ]
    if not events:
        return Evidence(Verdict.NOT_LEASED, "no process leased it, and Dagster noted none")
    if living := _living(events):
        return Evidence(Verdict.RUNNING, f"process {living[0]}, which Dagster noted, may still work on it")
    return Evidence(Verdict.ORPHANED, "no process leased it, and none that Dagster noted lives on this machine")


def _living(events: Iterator[EngineEvent] | list[EngineEvent]) -> list[int]:
    noted = {int(event.metadata["pid"]): event.timestamp for event in events if _is_number(event.metadata.get("pid"))}
    return [pid for pid, at in noted.items() if may_have_been(pid, at)]


def _is_number(text: object) -> bool:
    return isinstance(text, str) and text.isdecimal()


def _words(verdict: Verdict, found: list[tuple[ProcessIdentity, Life]], children: list[int]) -> str:
    by_life = {life: process for process, life in found}
    if Life.ALIVE in by_life:
        return f"process {by_life[Life.ALIVE].pid} works on it"
    if verdict is Verdict.ELSEWHERE:
        host = by_life[Life.UNKNOWN].host
        return f"cannot be judged here, it is of host {host}; if that one is gone for good, give --gone-host {host}"
    if verdict is Verdict.RUNNING:
        return f"process {children[0]} of a step may still work on it"
    last = found[-1][0]
    if len(found) == 1:
        return f"process {last.pid} on {last.host} is gone"
    return f"process {last.pid} on {last.host} and {len(found) - 1} more are gone"


RETRY_PENDING_TAG = "dagster-slurm/retry_pending"
"""On a run that was marked failed and is to be retried: its own id. On a copy of its tags that id is another's."""
_MADE = "no"


def ending_ahead(instance: DagsterInstance, run: DagsterRun) -> Ending:
    """How the run would be marked."""
    left = None
    with suppress(DagsterError):  # an ancestor or a snapshot was deleted: it is not known, and said when it is retried
        left = steps_left(instance, run)
    return ending_of(run.status, left)


def mark(instance: DagsterInstance, run: DagsterRun, why: str, *, retry_follows: bool) -> Ending | None:
    """Mark an orphaned run; None if somebody else has ended it meanwhile.

    Two who do this at the same instant may both write their line. That changes nothing: both mark the same, and only
    one retry can be recorded, see `start.retry_run_id`.
    """
    now = instance.get_run_by_id(run.run_id)
    if now is None or now.status not in IN_PROGRESS:
        return None
    ending = ending_ahead(instance, now)
    if ending is Ending.CANCELED:
        instance.report_run_canceled(now, _CANCELED.format(why=why, run=now.run_id))
    elif ending is Ending.SUCCEEDED:
        mark_succeeded(instance, now, _SUCCEEDED.format(why=why))
    else:
        if retry_follows:
            # Before the run has ended: whoever dies in between leaves behind what the next one finishes.
            instance.add_run_tags(now.run_id, {RETRY_PENDING_TAG: now.run_id})
        mark_failed(instance, now, _FAILED.format(why=why))
    free_pool_slots(instance, now.run_id)
    return ending


def is_pending(run: DagsterRun) -> bool:
    """Whether the run was marked failed and its retry has not been made."""
    return run.status is DagsterRunStatus.FAILURE and run.tags.get(RETRY_PENDING_TAG) == run.run_id


def pending_runs(instance: DagsterInstance) -> Iterable[DagsterRun]:
    """The runs of which that is true."""
    ids = [value for _, values in instance.get_run_tags([RETRY_PENDING_TAG]) for value in values if value != _MADE]
    if not ids:
        return []
    return filter(is_pending, instance.get_runs(RunsFilter(run_ids=ids, statuses=[DagsterRunStatus.FAILURE])))


def note_retry_made(instance: DagsterInstance, run: DagsterRun) -> None:
    """Take back the mark that the run is to be retried, if it has one."""
    if RETRY_PENDING_TAG in run.tags:
        instance.add_run_tags(run.run_id, {RETRY_PENDING_TAG: _MADE})


_CANCELED = (
    "The processes of this run have died ({why}) after its cancellation was asked for and before they could cancel "
    "anything. The run is canceled now; its Slurm jobs were NOT cancelled by this, since a run is also terminated by "
    "hand because its process is dead. `dagster-slurm jobs --run {run}` lists those that are left, as `squeue --me` "
    "does on the cluster, and `scancel JOBID` cancels one."
)
_SUCCEEDED = (
    "The processes of this run have died ({why}) when every step had succeeded and only this was not recorded yet. "
    "Nothing is left to execute: the run has succeeded."
)
_FAILED = (
    "The processes of this run have died ({why}). It is marked failed, so that it can be executed again from the point "
    "of failure. Its Slurm jobs were left alone: a retry takes up what is queued or running, and collects what is done."
)
