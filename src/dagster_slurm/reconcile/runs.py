"""Looks at every run that Dagster holds for running, and brings those to an end whose processes are gone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunRecord,
    RunsFilter,
)

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.pipes.dagster_runs import create_retry, execute_recorded_run, instance_from, load_job, tags_of_retry
from dagster_slurm.pipes.run_notes import leases_of, take_lease
from dagster_slurm.reconcile.cancellations import cancelled_runs
from dagster_slurm.reconcile.decision import (
    IN_PROGRESS,
    RETRY_PENDING_TAG,
    Ending,
    Evidence,
    ReconciledRun,
    Verdict,
    ending_ahead,
    is_pending,
    judged,
    mark,
    note_retry_made,
    pending_runs,
    retry_process_tag,
)
from dagster_slurm.reconcile.start import Code, finish, retry_of


def main() -> None:
    """Do what stdin asks for."""
    asked = json.loads(sys.stdin.read())
    with instance_from(asked["instance"]) as instance:
        resume(instance, asked)


def resume(instance: DagsterInstance, asked: dict[str, Any]) -> None:
    """Record the retry, unless somebody has, and execute it."""
    parent = instance.get_run_by_id(asked["parent_run_id"])
    if parent is None:
        raise ConfigurationError(f"There is no run {asked['parent_run_id']} any more")
    job = load_job(parent, options=asked["code"])
    tags = {key: value for key, value in tags_of_retry(instance, parent).items() if key != RETRY_PENDING_TAG}
    run = create_retry(instance, parent, job, run_id=asked["run_id"], tags={**tags, **retry_process_tag(parent.run_id)})
    if run is None:
        return
    note_retry_made(instance, parent)
    take_lease(instance, run)
    execute_recorded_run(instance, run, job)


if __name__ == "__main__":
    main()


@dataclass(frozen=True)
class Plan:
    """What is to be done; see `reconcile_orphaned_slurm_runs`. `retry_later` leaves the retry to who comes next."""

    retry: bool = True
    retry_later: bool = False
    run_ids: Sequence[str] | None = None
    older_than_seconds: float = 0.0
    gone_hosts: Collection[str] = ()
    dry_run: bool = False
    code: Code | None = None
    max_parallel: int = 4


def reconciled_runs(
    instance: DagsterInstance, plan: Plan, notice: Callable[[str], None] = lambda line: None
) -> Iterator[ReconciledRun]:
    """What `reconcile_orphaned_slurm_runs` finds and does, each run as soon as all is done for it.

    Args:
        instance: Where the runs are.
        plan: What is to be done.
        notice: Is told when a retry begins, and of runs that are not known to be of this package and may have died.
    """
    if plan.retry and not instance.is_persistent:
        raise ConfigurationError(
            "The runs of this instance are not kept, so no other process can retry them", hint="Set DAGSTER_HOME."
        )
    named = None if plan.run_ids is None else list(plan.run_ids)
    yield from cancelled_runs(instance, named, dry_run=plan.dry_run)
    to_retry = []
    for run in _candidates(instance, plan):
        evidence = _look(instance, run, plan)
        if evidence.verdict is Verdict.NOT_LEASED and plan.run_ids is None:
            _mention(instance, run, notice)
        elif evidence.verdict not in _TO_DO:
            # Who names a run wants to have it finished.
            settled = plan.run_ids is None or evidence.verdict in (Verdict.RUNNING, Verdict.OVER)
            yield _told(run, evidence.verdict, evidence.words, settled=settled)
        elif plan.dry_run:
            yield _foreseen(instance, run, evidence, plan)
        elif evidence.verdict is Verdict.UNFINISHED and plan.retry:
            to_retry.append(run.run_id)
        elif evidence.verdict is Verdict.UNFINISHED:
            yield _told(run, evidence.verdict, evidence.words)
        else:
            ending = mark(instance, run, evidence.words, retry_follows=plan.retry or plan.retry_later)
            if ending is Ending.FAILED and plan.retry:
                to_retry.append(run.run_id)
            else:
                yield _marked(run, evidence, ending)
    yield from _retried(instance, to_retry, plan, notice)


def _candidates(instance: DagsterInstance, plan: Plan) -> Iterator[DagsterRun]:
    if plan.run_ids is not None:
        records = instance.get_run_records(RunsFilter(run_ids=list(plan.run_ids)))
        missing = set(plan.run_ids) - {record.dagster_run.run_id for record in records}
        if missing:
            raise ConfigurationError(
                f"There is no run {', '.join(sorted(missing))} in this instance",
                hint="Give the whole id, as the UI shows it, and check DAGSTER_HOME.",
            )
    else:
        records = instance.get_run_records(RunsFilter(statuses=list(IN_PROGRESS)))
        yield from (run for run in pending_runs(instance) if not _is_continued(instance, run, plan))
    yield from (record.dagster_run for record in records if _is_old_enough(record, plan))


def _is_continued(instance: DagsterInstance, run: DagsterRun, plan: Plan) -> bool:
    """Whether the retry of a marked run is there by now: of the daemon, or of the user."""
    continued = retry_of(instance, run) is not None
    if continued and not plan.dry_run:
        note_retry_made(instance, run)
    return continued


def _is_old_enough(record: RunRecord, plan: Plan) -> bool:
    return time.time() - record.update_timestamp.timestamp() >= plan.older_than_seconds


def _look(instance: DagsterInstance, run: DagsterRun, plan: Plan) -> Evidence:
    named = plan.run_ids is not None
    if run.status in IN_PROGRESS:
        return judged(instance, run, gone_hosts=plan.gone_hosts, named=named)
    if is_pending(run):
        return Evidence(Verdict.UNFINISHED, "it was marked failed and not retried")
    if named and run.status is DagsterRunStatus.FAILURE and leases_of(instance, run.run_id):
        return Evidence(Verdict.UNFINISHED, "it failed")
    return Evidence(Verdict.OVER, f"it has ended: {run.status.value}")


def _mention(instance: DagsterInstance, run: DagsterRun, notice: Callable[[str], None]) -> None:
    """Point out a run that nobody leased, and that may have died before its first step of ours began."""
    if judged(instance, run, gone_hosts=(), named=True).verdict is Verdict.ORPHANED:
        notice(f"{run.run_id} {run.job_name}: may have died before it began with a job; --run {run.run_id} finishes it")


def _foreseen(instance: DagsterInstance, run: DagsterRun, evidence: Evidence, plan: Plan) -> ReconciledRun:
    """What would be done."""
    marked = evidence.verdict is Verdict.UNFINISHED
    ending = Ending.FAILED if marked else ending_ahead(instance, run)
    steps = [] if marked else [f"marked {ending.value}"]
    if ending is Ending.FAILED and plan.retry:
        steps.append("retried")
    words = f"{evidence.words}; would be {' and '.join(steps) or 'left alone'}"
    return _told(run, evidence.verdict, words, settled=not steps)


def _marked(run: DagsterRun, evidence: Evidence, ending: Ending | None) -> ReconciledRun:
    """What was done, where nothing is to follow here."""
    done = _DONE[ending] if ending else "was ended by somebody else meanwhile"
    return _told(run, evidence.verdict, f"{evidence.words}; {done}")


def _retried(
    instance: DagsterInstance, run_ids: Sequence[str], plan: Plan, notice: Callable[[str], None]
) -> Iterator[ReconciledRun]:
    """The runs that are retried, in the order of their ends."""

    def one(run_id: str) -> ReconciledRun:
        # Read again: marking has written tags that tell what the daemon does.
        run = instance.get_run_by_id(run_id)
        if run is None:
            raise ConfigurationError(f"The run {run_id} was deleted meanwhile")
        return finish(instance, run, code=plan.code, notice=notice)

    with ThreadPoolExecutor(max_workers=plan.max_parallel) as pool:
        for done in as_completed([pool.submit(one, run_id) for run_id in run_ids]):
            yield done.result()


def _told(run: DagsterRun, verdict: Verdict, done: str, *, settled: bool = True) -> ReconciledRun:
    return ReconciledRun(run.run_id, run.job_name, verdict, done, settled=settled)


_TO_DO = (Verdict.ORPHANED, Verdict.UNFINISHED)
_DONE = {
    Ending.CANCELED: "marked canceled, as had been asked for; its jobs were not cancelled by this",
    Ending.SUCCEEDED: "every step had succeeded: marked succeeded",
    Ending.FAILED: "marked failed",
}
