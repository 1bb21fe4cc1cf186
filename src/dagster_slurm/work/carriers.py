"""What is given to Slurm, or to this machine, to execute units: a job, a job array, a process.

A *unit* is what is executed exactly once: a partition of a call, or the call as a whole (`ONE`). A *carrier* executes
one or many of them; here it is data, and what is done about it is the same for every kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dagster_slurm.job.cancelling import Withdrawal
from dagster_slurm.job.events import Ended, Listener
from dagster_slurm.job.retrying import Outcome
from dagster_slurm.pipes.session import pipes_variables
from dagster_slurm.run_directory import JobHandle, RunDirectory, short_digest
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging.collect import Collected

PARTITION_VARIABLE = "DAGSTER_SLURM_PARTITION_KEY"

Tries = Mapping[str, Sequence[Outcome]]
"""How the attempts at units have ended by now, by unit."""


@dataclass(frozen=True)
class Carrier:
    """One attempt at some units.

    Args:
        number: The number of the attempt.
        handle: The job; without an id for a process of this machine.
        units: What it executes, in the order of its elements.
        left: Those that are followed.
        request: What was asked of Slurm for each.
        is_array: Whether each unit is an element of it.
        over: Those that had ended when the job was looked for.
        changed: What was another when it was submitted, in words.
    """

    number: int
    handle: JobHandle
    units: tuple[str, ...]
    left: tuple[str, ...]
    request: JobRequest
    is_array: bool = False
    over: frozenset[str] = frozenset()
    changed: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What people call it."""
        if not self.handle.job_id:
            return "The payload"
        if self.handle.session is not None:
            return f"Slurm step {self.handle.job_id}"
        return f"Slurm {'array' if self.is_array else 'job'} {self.handle.job_id}"

    @property
    def wait(self) -> str:
        """The name of its wait in the queue, as a span of the run's time line; empty where its units wait apart."""
        return "" if self.is_array else self.title

    @property
    def directory(self) -> RunDirectory:
        """Where it lies."""
        return self.handle.directory

    @property
    def is_one_job(self) -> bool:
        """Whether its units begin together: what is told of one holds for all."""
        return not self.is_array

    def request_of(self, unit: str) -> JobRequest:
        """What was asked of Slurm for a unit."""
        del unit
        return self.request

    def elements(self) -> Iterable[tuple[int | None, str]]:
        """The units that are followed, with the number of the element of each; None for one that has no other."""
        left = frozenset(self.left)
        return ((number if self.is_array else None, unit) for number, unit in enumerate(self.units) if unit in left)

    def handle_of(self, element: int | None) -> JobHandle:
        """What executes one unit."""
        return self.handle if element is None else self.handle.of(element)


@dataclass(frozen=True)
class Taken:
    """What there is of a piece of work when a call begins.

    Args:
        carriers: Those that are there.
        tries: How earlier attempts have ended.
        following: The number of the attempt that comes next.
        begun: The units of that attempt, if it lies there and has only to be submitted.
    """

    carriers: tuple[Carrier, ...] = ()
    tries: Tries = field(default_factory=dict)
    following: int = 0
    begun: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnitEnd:
    """The end of a unit, with everything it reported taken in.

    Args:
        unit: The unit.
        carrier: What has executed it.
        handle: Its job, or the task of it.
        ended: How it ended.
        gave_up_waiting: Whether it was cancelled because it waited longer than `max_queue_hours`.
        collected: What was taken out of its working directory.
    """

    unit: str
    carrier: Carrier
    handle: JobHandle
    ended: Ended
    gave_up_waiting: bool = False
    collected: Collected = field(default_factory=Collected)

    @property
    def job_id(self) -> str:
        """As Slurm has it; of a step of a session, its number as a step."""
        step = self.ended.step
        return f"{JobId.parse(self.handle.job_id).in_queue}.{step}" if step else self.handle.job_id

    @property
    def outcome(self) -> Outcome:
        """How it ended, as the next attempt has to know it."""
        outcome = Outcome.of(self.ended.state, self.ended.end_mark, self.ended.record)
        is_of_allocation = self.handle.session is not None and self.ended.over_status is None
        return replace(outcome, is_of_allocation=True) if is_of_allocation else outcome


class Carriers(ABC):
    """Where carriers are made: a cluster, or this machine. Every method may be repeated at any time."""

    NOTHING = "no job was submitted"
    """What came of a termination that found no job."""

    @property
    @abstractmethod
    def host(self) -> str:
        """The login node, or this machine."""

    def find(self, wanted: Callable[[Sequence[str]], bool]) -> Taken:
        """What there is.

        Args:
            wanted: Tells whether an attempt at these units, which somebody has prepared, is to be submitted as it is.
        """
        return Taken()

    @abstractmethod
    def room(self, request: JobRequest, units: int, *, may_wait: bool) -> int:
        """How many of so many units may be submitted now; with `may_wait` at least one, when there is room.

        Raises:
            SubmissionRejectedError: Slurm does not take such a request.
        """

    def placed(self, request: JobRequest) -> JobRequest:
        """A request with a partition in the place of `auto`.

        Raises:
            InvalidRequestError: None fits.
        """
        return request

    @abstractmethod
    def submit(self, number: int, tries: Tries, request: JobRequest) -> Carrier:
        """Prepare an attempt at units, and submit it. Of two processes that prepare one, the first's units count.

        Raises:
            AttemptClosedError: Another process has closed it; what there is, is to be looked for again.
        """

    @abstractmethod
    def watch(self, jobs: Sequence[tuple[Carrier, JobHandle, Listener]]) -> None:
        """Have what happens to units told to their listeners."""

    @abstractmethod
    def forget(self, listeners: Sequence[Listener]) -> None:
        """Tell these no more."""

    def owner(self, carrier: Carrier) -> str:
        """The job that executes what this one was to execute, or `REVOKED`; empty where nobody knows any more."""
        return carrier.handle.job_id

    def take_back(self, carrier: Carrier) -> bool:
        """See to it that a unit which was given back by its session never begins there; whether that is so."""
        del carrier
        return False

    def said(self, handle: JobHandle) -> str:
        """What Slurm and the batch script wrote beside a payload: the out-of-memory killer's line, and such."""
        return ""

    def kept(self, handle: JobHandle) -> str:
        """What is left of a failed unit, in words, where it is not its directory."""
        return ""

    @abstractmethod
    def missing(self, module: str) -> str:
        """What to do about a module that a payload did not find: in which environment, and how to add to it."""

    def missing_of(self, unit: str, module: str) -> str:
        """The same, of one unit."""
        del unit
        return self.missing(module)

    @abstractmethod
    def collect(self, unit: str, handle: JobHandle) -> Collected:
        """Take the outputs of a unit that has succeeded; nothing of it is removed before.

        Raises:
            OutputNotFoundError: One is not there.
        """

    @abstractmethod
    def close(self, carrier: Carrier, failed: Mapping[int | None, Outcome]) -> None:
        """All units of it have ended, and what they brought is on record; of those that failed, how."""

    def cancel_waiting(self, carrier: Carrier) -> None:
        """Cancel what of it waits in the queue."""
        return

    @abstractmethod
    def withdraw(self) -> Withdrawal:
        """See to it that nothing of this call begins any more, and cancel what runs."""

    def left_of(self, withdrawal: Withdrawal) -> str:
        """What is still to be cancelled, as far as can be told; empty when nothing is."""
        del withdrawal
        return ""

    def leave(self, withdrawal: Withdrawal, left: str) -> None:
        """This process ends, and that is still to be cancelled."""
        del withdrawal, left

    def stay_fresh(self) -> None:
        """Keep what lies there from being taken for old."""
        return


def unit_variables(
    directory: RunDirectory, unit: str, attempt: int, partition_keys: Sequence[str] | None = None
) -> dict[str, str]:
    """What a payload is told: which unit and attempt it is, where its checkpoints lie, the same for all, and Pipes.

    Args:
        directory: Where it lies.
        unit: The unit.
        attempt: Which attempt at it this is, from 0 on.
        partition_keys: Those of the run: the only one is that of a unit which stands for no partition.
    """
    below = f"/{short_digest(unit)}" if unit else ""
    partition = unit or (partition_keys[0] if partition_keys and len(partition_keys) == 1 else "")
    named = {PARTITION_VARIABLE: partition} if partition else {}
    return {
        "DAGSTER_SLURM_CHECKPOINT_DIR": f"{directory.checkpoint}{below}",
        "DAGSTER_SLURM_ATTEMPT": str(attempt),
        **named,
        **pipes_variables(context=directory.context, messages=directory.messages),
    }
