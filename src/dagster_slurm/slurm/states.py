"""The states of a Slurm job, as a table.

Sources: "JOB STATE CODES" of squeue(1) and sacct(1), releases 20.11 to 25.11, and the page "Job State Codes"
(https://slurm.schedmd.com/job_state_codes.html), which also lists the flags that are printed in place of a
state.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from dagster_slurm.errors import SlurmOutputError


class StatePhase(enum.Enum):
    """What a state means for the one who waits for the job."""

    WAITING = "waiting"
    ACTIVE = "active"
    ENDED = "ended"


class JobState(str, enum.Enum):
    """Every documented state of a job, by its long name."""

    BOOT_FAIL = "BOOT_FAIL"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    COMPLETING = "COMPLETING"
    CONFIGURING = "CONFIGURING"
    DEADLINE = "DEADLINE"
    EXPEDITING = "EXPEDITING"
    FAILED = "FAILED"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PENDING = "PENDING"
    POWER_UP_NODE = "POWER_UP_NODE"
    PREEMPTED = "PREEMPTED"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    RESIZING = "RESIZING"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    REVOKED = "REVOKED"
    RUNNING = "RUNNING"
    SIGNALING = "SIGNALING"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    STAGE_OUT = "STAGE_OUT"
    STOPPED = "STOPPED"
    SUSPENDED = "SUSPENDED"
    TIMEOUT = "TIMEOUT"
    UPDATE_DB = "UPDATE_DB"

    def __str__(self) -> str:
        return self.value

    @property
    def code(self) -> str:
        """The compact code that `squeue -o %t` prints, "" for the flags that have none."""
        return _FACTS[self].code

    @property
    def phase(self) -> StatePhase:
        """Whether a job in this state waits, holds resources, or has ended."""
        return _FACTS[self].phase

    @property
    def meaning(self) -> str:
        """What it means, to follow "the job"."""
        return _FACTS[self].meaning

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended; after PREEMPTED and NODE_FAIL Slurm may still requeue it."""
        return self.phase is StatePhase.ENDED

    @property
    def is_success(self) -> bool:
        """Whether the job ended with every process at exit code zero."""
        return self is JobState.COMPLETED


class _Facts(NamedTuple):
    code: str
    phase: StatePhase
    meaning: str


_WAITING, _ACTIVE, _ENDED = StatePhase.WAITING, StatePhase.ACTIVE, StatePhase.ENDED

_FACTS: dict[JobState, _Facts] = {
    JobState.BOOT_FAIL: _Facts("BF", _ENDED, "ended: a node of it did not boot"),
    JobState.CANCELLED: _Facts("CA", _ENDED, "was cancelled"),
    JobState.COMPLETED: _Facts("CD", _ENDED, "has completed"),
    JobState.COMPLETING: _Facts("CG", _ACTIVE, "ends: Slurm cleans up after it"),
    JobState.CONFIGURING: _Facts("CF", _ACTIVE, "has its nodes and waits for them to be ready"),
    JobState.DEADLINE: _Facts("DL", _ENDED, "ended: it could not be done before its deadline"),
    JobState.EXPEDITING: _Facts("", _WAITING, "was requeued and starts again before others"),
    JobState.FAILED: _Facts("F", _ENDED, "failed"),
    JobState.LAUNCH_FAILED: _Facts("", _ENDED, "could not be launched on its nodes"),
    JobState.NODE_FAIL: _Facts("NF", _ENDED, "ended: a node of it failed"),
    JobState.OUT_OF_MEMORY: _Facts("OOM", _ENDED, "ended: it used more memory than it had asked for"),
    JobState.PENDING: _Facts("PD", _WAITING, "waits in the queue"),
    JobState.POWER_UP_NODE: _Facts("", _ACTIVE, "has its nodes and waits for them to be powered up"),
    JobState.PREEMPTED: _Facts("PR", _ENDED, "was preempted by another job"),
    JobState.RECONFIG_FAIL: _Facts("", _ENDED, "ended: a node of it could not be configured"),
    JobState.REQUEUED: _Facts("RQ", _WAITING, "was requeued: its work was ended, and it waits to start again"),
    JobState.REQUEUE_FED: _Facts("RF", _WAITING, "was requeued by its federation of clusters"),
    JobState.REQUEUE_HOLD: _Facts("RH", _WAITING, "was requeued and is held"),
    JobState.RESIZING: _Facts("RS", _ACTIVE, "is changing its size"),
    JobState.RESV_DEL_HOLD: _Facts("RD", _WAITING, "is held since its reservation was deleted"),
    JobState.REVOKED: _Facts("RV", _ENDED, "was revoked: another cluster of its federation runs it"),
    JobState.RUNNING: _Facts("R", _ACTIVE, "runs"),
    JobState.SIGNALING: _Facts("SI", _ACTIVE, "is being sent a signal"),
    JobState.SPECIAL_EXIT: _Facts("SE", _WAITING, "was requeued in a special state and is held"),
    JobState.STAGE_OUT: _Facts("SO", _ACTIVE, "has ended, and its files are being staged out"),
    JobState.STOPPED: _Facts("ST", _ACTIVE, "is stopped (SIGSTOP) and keeps its CPUs; SIGCONT lets it go on"),
    JobState.SUSPENDED: _Facts(
        "S",
        _ACTIVE,
        "is suspended: its processes stand still until it is resumed",
    ),
    JobState.TIMEOUT: _Facts("TO", _ENDED, "ended: it reached its time limit"),
    JobState.UPDATE_DB: _Facts("", _ACTIVE, "is being noted in the accounting"),
}

_BY_NAME = {state.value: state for state in JobState} | {
    facts.code: state for state, facts in _FACTS.items() if facts.code
}
_FLAG_SEPARATOR = re.compile(r"[,+](?=\s*[A-Za-z])")
_CANCELLED_BY = re.compile(r"\s*CANCELLED by (\d{1,18})\s*", re.IGNORECASE)


def parse_job_state(text: str) -> JobState:
    """Read a state as squeue, sacct or scontrol print it.

    Accepted: long names and compact codes in either case; `CANCELLED by 1000` (sacct(1), field State); a name
        cut
    at the column's width, `OUT_OF_ME+`, if only one state begins so; flags after a comma or plus,
    `RUNNING,COMPLETING`, where the flag wins over the state as it does in squeue.

    Args:
        text: The printed state.

    Returns:
        The state.

    Raises:
        SlurmOutputError: No state, or more than one, is known by that text.
    """
    state, *flags = [_parse_one(name, text) for name in _FLAG_SEPARATOR.split(text)]
    return next((flag for flag in flags if not flag.is_terminal), flags[-1] if flags else state)


def cancelled_by_uid(text: str) -> int | None:
    """The numeric user id in sacct's `CANCELLED by 1000`, or None if the text names nobody."""
    match = _CANCELLED_BY.fullmatch(text)
    return int(match.group(1)) if match else None


def _parse_one(name: str, text: str) -> JobState:
    words = name.upper().split()
    head = words[0] if words else ""
    if len(words) > 1 and cancelled_by_uid(name) is None:
        raise _unknown(text)
    if head in _BY_NAME:
        return _BY_NAME[head]
    prefix = head.rstrip("+")
    found = [state for state in JobState if state.value.startswith(prefix)]
    if prefix == head or not prefix or len(found) != 1:
        raise _unknown(text)
    return found[0]


def _unknown(text: str) -> SlurmOutputError:
    return SlurmOutputError(
        f"unknown job state {text!r}",
        hint="Known are the states of squeue(1), JOB STATE CODES; please report the version of Slurm.",
    )
