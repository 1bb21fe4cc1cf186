"""What is known of the processes of a run: their leases, and what Dagster itself noted of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from dagster import DagsterEventType, DagsterInstance, DagsterRun

from dagster_slurm.pipes.dagster_private import EngineEvent, engine_events, is_step_over
from dagster_slurm.pipes.leases import leases_of
from dagster_slurm.process_identity import Life, ProcessIdentity, Vantage, may_have_been
from dagster_slurm.reconcile.decision import Verdict, verdict_of

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
    lease = json.loads(text) if text else {}
    if lease and lease["retry_of"] == run.parent_run_id:
        yield ProcessIdentity.from_json(lease["process"])


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
