"""What is said of a job that did not succeed: its cause with figures and place, and what to do. Pure."""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from dagster_slurm import errors
from dagster_slurm.errors import JobFailedError, SubmissionUnknownError
from dagster_slurm.job.events import Ended
from dagster_slurm.run_directory import JobHandle
from dagster_slurm.slurm.job_id import title_of
from dagster_slurm.slurm.quantities import format_time_limit
from dagster_slurm.slurm.reasons import ReasonCategory, parse_reason
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.slurm.states import JobState
from dagster_slurm.text import printable, size_words

_MOST_CHARACTERS = 300
# What our own scripts say.
_OURS = "dagster-slurm: "
# What `srun --label` puts in front of a line.
_RANK = re.compile(r"^ *\d+: ?")
_FRAME = re.compile(r' +File ".*", line \d+')
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::| *$)")
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'", re.ASCII)


def exception_in(stderr: str) -> str:
    """The exception that Python's last traceback names, its first line; empty without one."""
    lines = [_RANK.sub("", line) if _FRAME.match(_RANK.sub("", line)) else line for line in stderr.splitlines()]
    frames = [number for number, line in enumerate(lines) if _FRAME.match(line)]
    if not frames:
        return ""
    after = (_RANK.sub("", line) for line in lines[frames[-1] + 1 :])
    found = next((line for line in after if line and not line[0].isspace()), "")
    return _shown(found) if _EXCEPTION.match(found) else ""


def last_line(stderr: str) -> str:
    """The last line that is not blank; empty without one.

    Of ours, the first of the last: the cause comes before what follows from it.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    ours = list(takewhile(lambda line: line.startswith(_OURS), reversed(lines)))
    return _shown(ours[-1].removeprefix(_OURS) if ours else lines[-1]) if lines else ""


def missing_module(cause: str) -> str:
    """The module that an exception says is not there; empty if it says something else."""
    found = _NO_MODULE.match(cause)
    return found[1] if found else ""


def _shown(line: str) -> str:
    text = printable(line.strip())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."


Facts = Mapping[str, int | str]

_SIGNAL_BASE = 128
_LARGEST_SIGNAL = 64
_NOT_OPENED_SIGNAL = 53
# Reasons of ended jobs for which no process was started (squeue(1), JOB REASON CODES).
_LAUNCH_REASONS = frozenset({"JobLaunchFailure", "FAIL_BAD_CONSTRAINTS", "LaunchFailure"})


@dataclass(frozen=True)
class _Place:
    """Where it was.

    Args:
        job: "Slurm job 12"; empty for a process of this machine.
        on: " on n1", behind something; empty if it is not known.
    """

    job: str
    on: str

    @property
    def words(self) -> str:
        """The place by itself."""
        return f"{self.job}{self.on}".strip() or "on this machine"


@dataclass(frozen=True)
class _Kind:
    """One kind of end.

    Args:
        error: Its error.
        cause: Its first line, from the facts and where it was.
        hint: What to do about it, from the facts.
    """

    error: type[JobFailedError]
    cause: Callable[[Facts, _Place], str]
    hint: Callable[[Facts], str | None] = lambda facts: None


def _worded(text: str) -> Callable[[Facts, _Place], str]:
    """A cause of which nothing else is known than the job and where it ran."""
    return lambda facts, place: text.format(job=place.job, on=place.on)


def _advised(text: str) -> Callable[[Facts], str]:
    return lambda facts: text


def _memory_cause(facts: Facts, place: _Place) -> str:
    asked, per_cpu = facts.get("asked_mem_mib"), " a CPU" if "mem_per_cpu" in facts else ""
    figure = f" used all of its {size_words(int(asked) << 20)}{per_cpu}" if asked else ""
    return f"Out of memory: {place.job}{figure}{place.on}"


def _time_cause(facts: Facts, place: _Place) -> str:
    limit = facts.get("time_limit_seconds")
    after = f" after its {format_time_limit(int(limit))}" if limit else ""
    return f"Time limit: {place.job} was not done{after}{place.on}"


def _cancelled_cause(facts: Facts, place: _Place) -> str:
    uid = facts.get("cancelled_by_uid")
    who = "" if uid is None else f" by the user with id {uid}" if uid else " by an administrator, or by Slurm itself"
    return f"Cancelled{who}: {place.job}{place.on}"


def _waited_cause(facts: Facts, place: _Place) -> str:
    waited, reason = facts.get("waited_seconds"), facts.get("reason")
    time, why = f" {waited} s" if waited is not None else "", f" for {reason}" if reason else ""
    return f"Waited{time}{why}, more than max_queue_hours: {place.job} was cancelled"


def _memory_hint(facts: Facts) -> str:
    asked = facts.get("asked_mem_mib")
    had = f"It had {size_words(int(asked) << 20)}: raise" if asked else "Raise"
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


_BOOT = _Kind(
    errors.JobBootFailError,
    _worded("Boot failure: the nodes of {job} did not boot{on}"),
    _advised("Retry it; tell the site if it stays so."),
)
_OTHER_END = _worded("{job} did not succeed{on}")
_KINDS: dict[JobState, _Kind] = {
    JobState.BOOT_FAIL: _BOOT,
    JobState.CANCELLED: _Kind(errors.JobCancelledError, _cancelled_cause, _cancelled_hint),
    # Without an end line: `Ended.is_success`.
    JobState.COMPLETED: _Kind(
        errors.JobEndNotSeenError,
        _worded("No end seen: {job} has completed{on}, as Slurm says, and nothing shows it"),
        _end_not_seen_hint,
    ),
    JobState.DEADLINE: _Kind(
        errors.JobDeadlineError,
        _worded("Deadline: {job} could not be done before it{on}"),
        _advised("Set a later `deadline`, or ask for less time."),
    ),
    JobState.FAILED: _Kind(errors.PayloadFailedError, _OTHER_END),
    JobState.LAUNCH_FAILED: _Kind(
        errors.JobLaunchFailedError, _worded("Launch failure: {job} could not be started{on}"), _node_hint
    ),
    JobState.NODE_FAIL: _Kind(errors.JobNodeFailError, _worded("Node failure: {job} has lost a node{on}"), _node_hint),
    JobState.OUT_OF_MEMORY: _Kind(errors.JobOutOfMemoryError, _memory_cause, _memory_hint),
    JobState.PREEMPTED: _Kind(
        errors.JobPreemptedError,
        _worded("Preempted: another job took the place of {job}{on}"),
        _advised("Retry it, or choose a partition or QOS that is not preempted."),
    ),
    JobState.RECONFIG_FAIL: _BOOT,
    JobState.REVOKED: _Kind(
        JobFailedError,
        _worded("Revoked: {job} went to another cluster"),
        _advised("Another cluster of the federation has taken the job."),
    ),
    JobState.TIMEOUT: _Kind(errors.JobTimeLimitError, _time_cause, _time_hint),
}

# Kinds that Slurm's state does not tell apart.
_NOT_STARTED = _Kind(errors.JobNotStartedError, _waited_cause, _advised("Raise `max_queue_hours`, or ask for less."))
_HELD = _Kind(
    errors.JobHeldError, _waited_cause, _advised("Release it while it waits (`scontrol release`), or do not hold it.")
)
_NOT_OPENED = _Kind(
    errors.JobLaunchFailedError,
    _worded("Launch failure: the log of {job} could not be opened{on}"),
    _advised(
        "The run directory was removed while it waited, or its nodes do not have "
        "remote_base, which has to be on a file system that they share with the login node."
    ),
)
_LOST = _Kind(
    errors.JobEndNotSeenError,
    _worded("No end seen: {job} has failed{on}, as Slurm says, and nothing shows why"),
    _lost_hint,
)
_NEVER_SATISFIED = "DependencyNeverSatisfied"
_NEVER_FOLLOWS = _Kind(
    errors.JobDependencyError,
    _worded("Dependency never satisfied: {job} was cancelled"),
    _advised("See how the job ended that `dependency` names."),
)


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
    missing: Callable[[str], str] = lambda module: "",
) -> JobFailedError:
    """The error for a job's end: its cause, what to do, what was said, its state, and where the rest is kept.

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
        missing: What to do about a module that the payload did not find.
    """
    exit_code, signal = _exit_of(ended)
    outcome = f"exit code {exit_code}" if exit_code is not None else "no exit code"
    if signal:
        outcome += f", signal {signal}"
    nodes = ended.nodes or (ended.record.node_list if ended.record else None)
    slurm_said = f"Slurm says:\n{_indent(slurm_log_tail)}\n" if slurm_log_tail else ""
    said = f"Last lines of stderr:\n{_indent(stderr_tail)}" if stderr_tail else "It wrote nothing to stderr."
    left = kept or f"kept on {host}: {kept_path}"
    kind, facts = _kind_of(ended, gave_up_waiting), _facts_of(ended, request)
    place = _Place(title_of(job_id) if job_id else "", f" on {nodes}" if nodes else "")
    hint: str | None
    if kind is _KINDS[JobState.FAILED]:
        first, module = _of_payload(exit_code, signal, place, stderr_tail)
        hint = missing(module) if module else _of_exit_code(exit_code)
    else:
        first, hint = kind.cause({**facts, **_of_waiting(ended, request)}, place), kind.hint(facts)
    return kind.error(
        f"{first}\n{slurm_said}{said}\nState {ended.state}, {outcome}, node {nodes or 'unknown'}; {left}",
        state=ended.state.value,
        exit_code=exit_code,
        signal=signal,
        node=nodes,
        kept_path=kept_path,
        stderr_tail=stderr_tail,
        facts=facts,
        hint=hint or None,
        host=host,
        job_id=job_id,
    )


def _of_payload(exit_code: int | None, signal: int, place: _Place, stderr_tail: str) -> tuple[str, str]:
    """The first line for a payload that has failed by itself, and the module that it says it has not found."""
    from dagster_slurm.job.failure import exception_in, last_line, missing_module  # noqa: PLC0415 - for failures only

    code = f"exit code {exit_code}" if exit_code is not None else "no exit code"
    if signal:
        code = f"signal {signal}{_name_of(signal)}"
    # With what an exception ends Python that nobody has caught; any other traceback is one that was only told of.
    raised = exception_in(stderr_tail) if exit_code == 1 and not signal else ""
    if raised:
        return f"{raised} ({code}, {place.words})", missing_module(raised)
    last = last_line(stderr_tail)
    return f"{code[0].upper()}{code[1:]}, {place.words}{f': {last}' if last else ''}", ""


def _name_of(signal: int) -> str:
    try:
        return f" ({signals.Signals(signal).name})"
    except ValueError:
        return ""


def _of_exit_code(exit_code: int | None) -> str:
    """What to do about the exit codes that shells have themselves (POSIX, 2.8.2)."""
    if exit_code == 127:
        return "A shell has not found a program: it has to be in the environment, or among `extra_files`."
    if exit_code == 126:
        return "A shell cannot run a program: see its execute bit, its `#!` line, and for what machine it was built."
    return ""


def _of_waiting(ended: Ended, request: JobRequest | None) -> dict[str, int | str]:
    """How long it has waited, and for what, where it was given up; and how its memory was asked for."""
    record, found = ended.record, dict[str, int | str]()
    if record and record.submit_time and record.end_time:
        found["waited_seconds"] = round((record.end_time - record.submit_time).total_seconds())
    elif request and request.max_queue_seconds is not None:
        found["waited_seconds"] = request.max_queue_seconds
    reason = ended.reason or (record.reason if record else None)
    if reason:
        found["reason"] = parse_reason(reason).code
    if request and not request.mem_mib and request.mem_per_cpu_mib:
        found["mem_per_cpu"] = request.mem_per_cpu_mib
    return found


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
