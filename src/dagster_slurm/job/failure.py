"""What is said of a job that did not succeed: which kind of end, the facts, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dagster_slurm import errors
from dagster_slurm.errors import JobFailedError, SubmissionUnknownError
from dagster_slurm.job.events import Ended
from dagster_slurm.run_directory import JobHandle
from dagster_slurm.slurm.quantities import format_memory, format_time_limit
from dagster_slurm.slurm.reasons import ReasonCategory, parse_reason
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.slurm.states import JobState

Facts = Mapping[str, int | str]

_SIGNAL_BASE = 128
_LARGEST_SIGNAL = 64
_NOT_OPENED_SIGNAL = 53
# Reasons of ended jobs for which no process was started (squeue(1), JOB REASON CODES).
_LAUNCH_REASONS = frozenset({"JobLaunchFailure", "FAIL_BAD_CONSTRAINTS", "LaunchFailure"})


@dataclass(frozen=True)
class _Kind:
    """One kind of end: its error, and what to do about it, from the facts."""

    error: type[JobFailedError]
    hint: Callable[[Facts], str | None] = lambda facts: None


def _memory_hint(facts: Facts) -> str:
    asked = facts.get("asked_mem_mib")
    had = f"It had {format_memory(int(asked))}: raise" if asked else "Raise"
    return f"{had} `mem` (or `mem_per_cpu`)."


def _time_hint(facts: Facts) -> str:
    limit = facts.get("time_limit_seconds")
    had = f"It had {format_time_limit(int(limit))}: raise" if limit else "Raise"
    return f"{had} `time_limit`, or let it go on from a checkpoint in a further job (`continue_exit_code`)."


def _cancelled_hint(facts: Facts) -> str:
    uid = facts.get("cancelled_by_uid")
    if uid is None:
        return "Somebody has cancelled it; Slurm does not say who."
    if uid:
        return f"The user with id {uid} cancelled it."
    return "An administrator has cancelled it, or Slurm itself, as after a crash of its controller: ask the site why."


def _node_hint(facts: Facts) -> str:
    nodes = facts.get("node_list")
    return f"Retry it{f', without {nodes} (`exclude`)' if nodes else ''}; with `requeue=True` Slurm does so by itself."


def _end_not_seen_hint(facts: Facts) -> str:
    return (
        "Its batch script has written no end line, so that nothing shows that its payload came to its end: its node "
        "lost its power, or an administrator has cleared it as a runaway job. Retry it."
    )


def _lost_hint(facts: Facts) -> str:
    return (
        "Its batch script has written no end line, so that nothing shows that its payload has failed: it was killed "
        "from outside, or Slurm's controller has lost it, as in a crash. Retry it."
    )


_KINDS: dict[JobState, _Kind] = {
    JobState.BOOT_FAIL: _Kind(errors.JobBootFailError, lambda facts: "Retry it; tell the site if it stays so."),
    JobState.CANCELLED: _Kind(errors.JobCancelledError, _cancelled_hint),
    # Without an end line: `Ended.is_success`.
    JobState.COMPLETED: _Kind(errors.JobEndNotSeenError, _end_not_seen_hint),
    JobState.DEADLINE: _Kind(errors.JobDeadlineError, lambda facts: "Set a later `deadline`, or ask for less time."),
    JobState.FAILED: _Kind(errors.PayloadFailedError),
    JobState.LAUNCH_FAILED: _Kind(errors.JobLaunchFailedError, _node_hint),
    JobState.NODE_FAIL: _Kind(errors.JobNodeFailError, _node_hint),
    JobState.OUT_OF_MEMORY: _Kind(errors.JobOutOfMemoryError, _memory_hint),
    JobState.PREEMPTED: _Kind(
        errors.JobPreemptedError, lambda facts: "Retry it, or choose a partition or QOS that is not preempted."
    ),
    JobState.RECONFIG_FAIL: _Kind(errors.JobBootFailError, lambda facts: "Retry it; tell the site if it stays so."),
    JobState.REVOKED: _Kind(JobFailedError, lambda facts: "Another cluster of the federation has taken the job."),
    JobState.TIMEOUT: _Kind(errors.JobTimeLimitError, _time_hint),
}

# Kinds that Slurm's state does not tell apart.
_NOT_STARTED = _Kind(errors.JobNotStartedError, lambda facts: "Raise `max_queue_hours`, or ask for less.")
_HELD = _Kind(errors.JobHeldError, lambda facts: "Release it while it waits (`scontrol release`), or do not hold it.")
_NOT_OPENED = _Kind(
    errors.JobLaunchFailedError,
    lambda facts: (
        "Slurm could not open its log: the run directory was removed while it waited, or its nodes do not have "
        "remote_base, which has to be on a file system that they share with the login node."
    ),
)
_LOST = _Kind(errors.JobEndNotSeenError, _lost_hint)
_NEVER_SATISFIED = "DependencyNeverSatisfied"
_NEVER_FOLLOWS = _Kind(errors.JobDependencyError, lambda facts: "See how the job ended that `dependency` names.")


def job_failure(
    ended: Ended,
    *,
    job_id: str,
    host: str,
    stderr_tail: str,
    slurm_log_tail: str,
    kept_path: str,
    kept: str = "",
    request: JobRequest | None = None,
    gave_up_waiting: bool = False,
) -> JobFailedError:
    """The error for a job's end: last lines of stderr, state, exit code, node, and where the rest is kept.

    Args:
        ended: How it ended.
        job_id: Slurm's id; empty without one.
        host: The login node.
        stderr_tail: The last lines of the payload's stderr.
        slurm_log_tail: What Slurm itself said.
        kept_path: The run directory.
        kept: What is left, in words, where it is not the run directory on the cluster.
        request: What was asked of Slurm.
        gave_up_waiting: Whether it was cancelled because it waited longer than `max_queue_hours`.
    """
    exit_code, signal = _exit_of(ended)
    outcome = f"exit code {exit_code}" if exit_code is not None else "no exit code"
    if signal:
        outcome += f", signal {signal}"
    nodes = ended.nodes or (ended.record.node_list if ended.record else None)
    slurm_said = f"\nSlurm says:\n{_indent(slurm_log_tail)}" if slurm_log_tail else ""
    said = f"\nLast lines of stderr:\n{_indent(stderr_tail)}" if stderr_tail else "\nIt wrote nothing to stderr."
    what = f"Slurm job {job_id}" if job_id else "The payload"
    left = f"; {kept}" if kept else f"; kept on {host}: {kept_path}"
    kind, facts = _kind_of(ended, gave_up_waiting), _facts_of(ended, request)
    return kind.error(
        f"{what} did not succeed.{slurm_said}{said}\nState {ended.state}, {outcome}, node {nodes or 'unknown'}{left}",
        state=ended.state.value,
        exit_code=exit_code,
        signal=signal,
        node=nodes,
        kept_path=kept_path,
        stderr_tail=stderr_tail,
        facts=facts,
        hint=kind.hint(facts),
        host=host,
        job_id=job_id,
    )


def unknown_end(handle: JobHandle, host: str) -> SubmissionUnknownError:
    """The error for a job of which no witness tells how it ended."""
    return SubmissionUnknownError(
        "The job has left the queue, and no witness tells how it ended",
        hint=f"Look at {handle.directory.path}/log, and ask the site whether accounting is kept.",
        host=host,
        job_id=handle.job_id,
    )


def _kind_of(ended: Ended, gave_up_waiting: bool) -> _Kind:
    """The kind of end.

    Raises:
        KeyError: The job has not ended, or with success.
    """
    if ended.state is JobState.FAILED and ended.record and ended.record.reason in _LAUNCH_REASONS:
        return _KINDS[JobState.LAUNCH_FAILED]
    if ended.is_lost:
        return _NOT_OPENED if _could_not_open(ended) else _LOST
    if ended.state is not JobState.CANCELLED or ended.end_mark is not None:
        return _KINDS[ended.state]
    if _could_never_start(ended, gave_up_waiting):
        return _NEVER_FOLLOWS
    if gave_up_waiting:
        return _HELD if parse_reason(ended.reason).category is ReasonCategory.HELD else _NOT_STARTED
    return _KINDS[ended.state]


def _could_not_open(ended: Ended) -> bool:
    """Whether it did not begin since Slurm could not open its log there."""
    signal = ended.record.signal if ended.record else None
    return ended.nodes is None and (signal == _NOT_OPENED_SIGNAL or ended.is_removed)


def _could_never_start(ended: Ended, gave_up_waiting: bool) -> bool:
    uid, accounted = (ended.record.cancelled_by_uid, ended.record.reason) if ended.record else (None, None)
    if uid is None and accounted == "Dependency":
        # With kill_invalid_depend (slurm.conf(5)) Slurm itself cancels it; its accounting keeps the reason before.
        return True
    return ended.reason == _NEVER_SATISFIED and (gave_up_waiting or uid is None)


def _facts_of(ended: Ended, request: JobRequest | None) -> dict[str, int | str]:
    record = ended.record
    known = {
        "asked_mem_mib": request.mem_mib or request.mem_per_cpu_mib if request else None,
        "time_limit_seconds": request.time_limit_seconds if request else None,
        "cancelled_by_uid": record.cancelled_by_uid if record else None,
        "node_list": (record.node_list if record else None) or ended.nodes,
        "reason": record.reason if record else None,
    }
    return {name: value for name, value in known.items() if value is not None}


def _exit_of(ended: Ended) -> tuple[int | None, int]:
    """Exit code and signal; the batch script passes a payload's signal on as 128 and its number, as shells do."""
    record = ended.record
    # The end line is exact: Slurm 22.05 shows a status of 139 as 11:0, as if the payload had exited with 11.
    code = ended.end_mark.exit_code if ended.end_mark else (record.exit_code if record else None)
    if ended.is_lost and code:
        code = None
    signal = (record.signal if record else None) or 0
    if signal > _LARGEST_SIGNAL or (signal == _NOT_OPENED_SIGNAL and ended.nodes is None):
        # Slurm's own marks, of a job over its memory, 0:125, and of one whose log cannot be opened, are no signals.
        signal = 0
    if not signal and code is not None and code > _SIGNAL_BASE:
        signal = code - _SIGNAL_BASE
    return code, signal


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
