"""What follows from what was seen. Pure: no clock, no I/O, one table-tested function.

*Unknown* is not *failed*, and *unreachable* is not *unknown*: no answer never ends anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dagster_slurm.cluster.status_file import EndMark
from dagster_slurm.slurm.states import JobState


class Absence(Enum):
    """What is known of a job that a witness did not name."""

    NOT_KNOWN = "not asked yet, or no answer"
    GONE = "a good answer, without this job"


class Action(Enum):
    """What to do next about a job."""

    WAIT = "look again at the next tick"
    ASK_QUEUE = "ask squeue soon"
    ASK_ACCOUNTING = "ask sacct soon"
    FINISH = "the end is known"
    GIVE_UP = "the end cannot be known"


@dataclass(frozen=True)
class Patience:
    """How long, in seconds, to wait for witnesses once a job is over.

    Args:
        accounting_seconds: For sacct to know the end, when another witness tells it already.
        logs_seconds: For the last bytes of the logs to be seen (NFS).
        unknown_seconds: For any witness at all to tell how a job ended that has left the queue.
        silent_seconds: For the end line of such a job, where no accounting is kept: its batch script writes one
            unless it was killed.
        prompt_seconds: For sacct to know a good end, before squeue is asked about it.
    """

    accounting_seconds: float = 20.0
    logs_seconds: float = 10.0
    unknown_seconds: float = 3600.0
    silent_seconds: float = 120.0
    prompt_seconds: float = 3.0


@dataclass(frozen=True)
class Observation:
    """What is known of one job.

    Args:
        end_mark: The end line of its newest incarnation.
        queue: squeue's word.
        accounting: sacct's word.
        logs_complete: Whether everything was read that the end line counts.
        over_seconds: How long it has been known to be over; 0 while it is not.
        accounting_off: Whether the cluster keeps no accounting at all.
        ending_seconds: How long its end line has been known.
    """

    end_mark: EndMark | None = None
    queue: JobState | Absence = Absence.NOT_KNOWN
    accounting: JobState | Absence = Absence.NOT_KNOWN
    logs_complete: bool = True
    over_seconds: float = 0.0
    accounting_off: bool = False
    ending_seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether a witness says that it runs no more: it ended, or it left the queue."""
        return self.queue is Absence.GONE or self.ended_state is not None

    @property
    def ended_state(self) -> JobState | None:
        """The state it ended in, as sacct or squeue has it."""
        for word in (self.accounting, self.queue):
            if isinstance(word, JobState) and word.is_terminal:
                return word
        return None


@dataclass(frozen=True)
class Decision:
    """The next action and, at the end, the state it ended in."""

    action: Action
    state: JobState | None = None


def decide(seen: Observation, patience: Patience) -> Decision:
    """The next action for a job.

    squeue is the witness of pending and running, sacct of the end; the end line is the fastest hint, believed
    alone only when the job has left the queue and sacct stays silent. A good end needs no question to the controller:
    Slurm by itself requeues nothing that has completed.
    """
    if not seen.is_over:
        return Decision(_confirm(seen.end_mark, seen, patience) if seen.end_mark else Action.WAIT)
    if not seen.logs_complete and seen.over_seconds < patience.logs_seconds:
        return Decision(Action.WAIT)
    if isinstance(seen.accounting, JobState) and seen.accounting.is_terminal:
        return Decision(Action.FINISH, seen.accounting)
    if not seen.accounting_off and seen.over_seconds < patience.accounting_seconds:
        return Decision(Action.ASK_ACCOUNTING)
    if seen.ended_state is not None:
        return Decision(Action.FINISH, seen.ended_state)
    if seen.end_mark is not None:
        state = JobState.COMPLETED if seen.end_mark.exit_code == 0 else JobState.FAILED
        return Decision(Action.FINISH, state)
    if seen.accounting_off and seen.over_seconds >= patience.silent_seconds:
        return Decision(Action.FINISH, JobState.FAILED)
    if seen.over_seconds < patience.unknown_seconds:
        return Decision(Action.ASK_ACCOUNTING)
    return Decision(Action.GIVE_UP)


def _confirm(end_mark: EndMark, seen: Observation, patience: Patience) -> Action:
    """Whom to ask about an end line."""
    is_good = end_mark.exit_code == 0 and end_mark.restart == 0
    is_prompt = not seen.accounting_off and seen.ending_seconds < patience.prompt_seconds
    return Action.ASK_ACCOUNTING if is_good and is_prompt else Action.ASK_QUEUE
