"""The one way of a call: find what there is of its units or submit it, follow it, try again, and say how each ended.

Whether there is one unit or a thousand, and whether they are jobs, tasks of arrays or processes of this machine, is
the carriers' business; whether a failure is raised or gathered, the clients'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from dagster_slurm.cluster.records import REVOKED
from dagster_slurm.errors import (
    AttemptClosedError,
    DagsterSlurmError,
    JobFailedError,
    OutputNotFoundError,
    ResultLostError,
)
from dagster_slurm.job.events import Ended
from dagster_slurm.job.failure import job_failure
from dagster_slurm.job.retrying import Outcome, decide_next, next_request
from dagster_slurm.pipes.interruptions import TerminationRequestedError
from dagster_slurm.pipes.session import UnitSession
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.step_logs import Teller
from dagster_slurm.run_directory import ONE
from dagster_slurm.slurm.request import AUTO, JobRequest
from dagster_slurm.text import counted
from dagster_slurm.work.carriers import Carrier, Carriers, UnitEnd
from dagster_slurm.work.followed import Followed, FollowedUnit, cancelled
from dagster_slurm.work.spec import WorkSpec

_MAX_ROUNDS = 10
_PROGRESS_SECONDS = 10.0
_FULL_SECONDS = 5.0
# What has failed is gathered, so that a hundred tasks that are tried again are no hundred arrays.
_GATHER_SECONDS = 30.0
_FRESH_SECONDS = 1.0
_TOUCH_SECONDS = 3600.0
# A session whose allocations end before they begin anything is not asked for without end.
_MOST_MOVES = 5
# Each costs a round trip; the step's failure names no more.
_MOST_QUOTED = 20
# What is recorded together is one transaction, which the others of Dagster's storage wait for.
_TOGETHER_SECONDS = 0.1


class Report(Protocol):
    """Where what units have brought goes."""

    def take(self, end: UnitEnd, session: UnitSession) -> None:
        """Take what a unit that has succeeded has brought."""
        ...

    def write(self) -> None:
        """Put on record what was taken: the directories that it is in are removed after that."""
        ...


class Interrupting(Protocol):
    """What may end a call, as `Interruptions` has it."""

    has_jobs: bool

    @property
    def is_terminated(self) -> bool:
        """Whether a user has terminated the run."""
        ...

    @property
    def is_detached(self) -> bool:
        """Whether the monitoring is to end."""
        ...

    def check(self, *, afresh: bool = False) -> None:
        """Act on what has happened, once."""
        ...


class TerminatedError(Exception):
    """A user has terminated the run. What was done about the jobs is the message."""


class Loop:
    """One call, on its way to the end of all its units.

    Args:
        step: The step.
        spec: What is to be run for each.
        units: The units, in their order.
        carriers: Where they are executed.
        interruptions: What may end the call before the units do.
        report: Takes what each unit has brought; what was written is not collected again.
    """

    NOUN = "partition"
    """What one of many units is, for people."""

    def __init__(
        self,
        step: Step,
        spec: WorkSpec,
        units: Sequence[str],
        carriers: Carriers,
        interruptions: Interrupting,
        report: Report,
    ) -> None:
        self._step = step
        self._spec = spec
        self._units = tuple(units)
        self._carriers = carriers
        self._interruptions = interruptions
        self._report = report
        self._choose = next_carrier
        self._teller = Teller(step.run.run_id if step.run else "")
        self._followed = Followed(step, carriers, self._teller, beside=len(self._units) > 1)
        self._tries: dict[str, tuple[Outcome, ...]] = {}
        self._waiting: dict[str, tuple[Outcome, ...]] = {}
        self._done: set[str] = set()
        self._failures: dict[int, dict[int | None, Outcome]] = {}
        self._uncollected: set[int] = set()
        self._owners: dict[Path, str] = {}
        self._over: list[Carrier] = []
        self._following = 0
        self._begun: tuple[str, ...] = ()
        self._closed_by_others = 0
        self._moves: dict[str, int] = {}
        self._feed_at = 0.0
        self._progress_at = 0.0
        self._checked_at = 0.0
        self._touch_at = time.monotonic() + _TOUCH_SECONDS
        self.failed: dict[str, tuple[DagsterSlurmError, UnitEnd]] = {}

    def to_the_end(self) -> Mapping[str, tuple[DagsterSlurmError, UnitEnd]]:
        """Follow what there is, submit what is missing, and report each unit that succeeds; those that failed, and why.

        Raises:
            TerminatedError: A user has terminated the run.
            DagsterExecutionInterruptedError: The monitoring is to end; the jobs go on.
            InvalidRequestError: Something about the request is wrong; nothing was uploaded or submitted.
            TransportError: The cluster could not be reached, or its directory not be written.
            SlurmError: Slurm's answer is not usable.
        """
        try:
            if self._units:
                self._take_up()
            while self._waiting or self._followed:
                self._feed()
                self._interruptions.check()
                self._follow_on()
                self._give_up_on_late_ones()
                self._stay_fresh()
                self._tell_progress()
        except TerminationRequestedError:
            raise TerminatedError(cancelled(self._step, self._carriers, self._followed, self._follow_on)) from None
        finally:
            self._followed.forget()
            self._followed.close()
            self._teller.finish()
        return self.failed

    def _take_up(self) -> None:
        """Follow what there is; the other units wait for a carrier."""
        taken = self._carriers.find(lambda units: set(units) <= set(self._units) - self._done)
        self._following, self._begun = taken.following, taken.begun
        self._tries = {unit: tuple(tries) for unit, tries in taken.tries.items()}
        for carrier in taken.carriers:
            self._tell_of_adoption(carrier)
            self._follow(self._with_request(carrier))
        self._feed_at = time.monotonic() + (_GATHER_SECONDS if taken.carriers else 0.0)
        followed = self._followed.units if taken.carriers else set()
        gone = followed | self._done | set(self.failed)
        self._waiting = {unit: self._tries.get(unit, ()) for unit in self._units if unit not in gone}

    def _tell_of_adoption(self, carrier: Carrier) -> None:
        does = "Collecting" if set(carrier.left) <= carrier.over else "Reattaching to"
        self._step.log.info(
            f"{does} {carrier.title} on {self._host}, which this piece of work has already; nothing is submitted. "
            f"Its directory is {carrier.directory.path}"
        )
        for what in carrier.changed:
            self._step.log.warning(f"{carrier.title} was submitted when {what} was another")

    def _follow(self, carrier: Carrier) -> None:
        mine = set(self._units) - self._done
        carrier = replace(carrier, left=tuple(unit for unit in carrier.left if unit in mine))
        limit = carrier.request.max_queue_seconds
        if carrier.left:
            self._interruptions.has_jobs = True
            self._followed.add(carrier, give_up_at=None if limit is None else time.monotonic() + limit)
        else:
            self._close(carrier)

    # -- submitting

    def _feed(self) -> None:
        """Submit units that wait for a carrier, if it is time for one."""
        busy, is_limited = bool(self._followed), bool(self._spec.tasks and self._spec.tasks.max_parallel)
        if not self._waiting or (busy and (is_limited or time.monotonic() < self._feed_at)):
            return
        request, units = self._choose(self._waiting, self._request_after)
        if request.partition == AUTO:
            request = self._carriers.placed(request)
        units = list(self._begun) or units
        room = self._carriers.room(request, len(units), may_wait=not busy)
        if room == 0:
            self._feed_at = time.monotonic() + _FULL_SECONDS
            return
        try:
            tries = {unit: self._waiting.get(unit, ()) for unit in units[:room]}
            carrier = self._carriers.submit(self._following, tries, request)
        except AttemptClosedError as error:
            self._look_again(error)
            return
        self._following, self._begun = carrier.number + 1, ()
        for unit in carrier.left:
            self._tries[unit] = self._waiting.pop(unit, ())
        self._feed_at = time.monotonic() + (0.0 if room < len(units) else _GATHER_SECONDS)
        self._follow(carrier)

    def _with_request(self, carrier: Carrier) -> Carrier:
        """One that was found, with what its units have asked for by the ends before."""
        return replace(carrier, request=self._request_after(self._tries.get(carrier.units[0], ())))

    def _spec_of(self, unit: str) -> WorkSpec:
        """What is run for a unit."""
        del unit
        return self._spec

    def _request_after(self, tries: Sequence[Outcome], unit: str = ONE) -> JobRequest:
        del unit
        return next_request(self._spec.request, tries, self._spec.rules) if tries else self._spec.request

    def _look_again(self, error: AttemptClosedError) -> None:
        """Another process works on the same: what it has is found, and adopted."""
        self._closed_by_others += 1
        if self._closed_by_others >= _MAX_ROUNDS:
            raise error
        self._followed.forget()
        self._take_up()

    # -- following

    def _follow_on(self) -> None:
        """Have what units say passed on, and take the ends of some: what they have brought is recorded together."""
        self._followed.take_in()
        until = time.monotonic() + _TOGETHER_SECONDS
        try:
            while (end := self._followed.next_end()) is not None:
                self._ended(*end)
                if time.monotonic() >= until:
                    return
        finally:
            self._report.write()
            while self._over:
                self._close(self._over.pop(0))

    def _ended(self, unit: FollowedUnit, ended: Ended) -> None:
        is_step = unit.of.carrier.handle.session is not None
        if is_step and ended.is_given_back and self._goes_on_elsewhere(unit, ended):
            return
        if ended.is_wordless and not self._has_run(unit):
            return
        carrier, of = unit.of.carrier, unit.of
        end = UnitEnd(unit.unit, carrier, unit.handle, ended, of.gave_up_waiting)
        for stream, size in ended.unread_bytes.items():
            lost = (
                f"{counted(size, 'byte')} of its {stream} could not be read: the file was removed or cut off meanwhile"
            )
            self._log("warning", f"{self._label(end)}{_title(end)}: {lost}")
        try:
            if ended.is_success:
                self._succeed(end, unit)
            else:
                self._fail(end, unit)
        finally:
            if not of.left and not self._interruptions.is_detached:
                self._over.append(carrier)

    def _goes_on_elsewhere(self, unit: FollowedUnit, ended: Ended) -> bool:
        """Whether a step that its allocation has not begun waits for the next one now: that is no retry."""
        carrier, moves = unit.of.carrier, self._moves.get(unit.unit, 0)
        if unit.of.gave_up_waiting or self._interruptions.is_terminated:
            return False
        if moves >= _MOST_MOVES or not self._carriers.take_back(carrier):
            return False
        self._moves[unit.unit] = moves + 1
        why = "takes no more steps" if ended.over_status is not None else f"has ended as {ended.state}"
        self._log("info", f"The allocation of {carrier.title} {why}; it had not begun, and goes on in the next one")
        self._waiting[unit.unit] = self._tries.get(unit.unit, ())
        self._feed_at = 0.0
        if not unit.of.left:
            self._over.append(carrier)
        return True

    def _has_run(self, unit: FollowedUnit) -> bool:
        """Whether a job that completed without a word took the gate; if not, the one that did is followed.

        Raises:
            ResultLostError: The directory is not there any more.
        """
        carrier = unit.of.carrier
        owner = self._carriers.owner(carrier)
        if owner == carrier.handle.job_id:
            return True
        if not owner:
            raise ResultLostError(
                f"The run directory {carrier.directory.path} was removed before it was read",
                hint="By hand, by a clean-up of the site, or by another process that has collected the result; nothing "
                "is submitted again.",
                host=self._host,
                job_id=carrier.handle.job_id,
            )
        if self._interruptions.is_terminated:
            return False
        left = (*self._followed.forget(carrier), unit.unit)
        if owner == REVOKED:
            self._look_again(AttemptClosedError(f"Another process has closed {carrier.directory.path}"))
        else:
            self._follow(replace(carrier, handle=replace(carrier.handle, job_id=owner), left=left))
        return False

    def _succeed(self, end: UnitEnd, unit: FollowedUnit) -> None:
        try:
            self._check_now_and_then()
        finally:
            if not self._interruptions.is_detached:
                self._bring(end, unit)

    def _bring(self, end: UnitEnd, unit: FollowedUnit) -> None:
        if unit.session.reader.is_cut_off:
            self._log("warning", f"{self._label(end)}it has opened Pipes and not closed it; messages may be missing")
        for node in end.ended.end_mark.nodes if end.ended.end_mark else ():
            if node.trouble:
                self._log(
                    "warning",
                    f"{self._label(end)}{_title(end)}: {node.trouble}; the payload has succeeded all the same",
                )
        try:
            end = replace(end, collected=self._carriers.collect(end.unit, end.handle))
        except OutputNotFoundError as error:
            # It stays open: a retry with another pattern collects, and executes nothing.
            self._uncollected.add(end.carrier.number)
            self._note_failure(end, error)
            return
        if end.collected.outputs:
            self._tell_of_overwritten(end)
        self._report.take(end, unit.session)
        self._done.add(end.unit)

    def _tell_of_overwritten(self, end: UnitEnd) -> None:
        owners = {path: self._owners.setdefault(path, end.unit) for path in end.collected.outputs}
        lost = [path for path, owner in owners.items() if owner != end.unit]
        if lost:
            self._log(
                "warning",
                f"{self._label(end)}{len(lost)} of its outputs replaced files of other {self.NOUN}s, such as {lost[0]} "
                f"of {owners[lost[0]]!r}: have the {self.NOUN} key in their names, or leave the directory to Dagster",
            )

    def _check_now_and_then(self) -> None:
        """A run that was given up meanwhile has a retry, or may get one, which records what comes from now on."""
        now = time.monotonic()
        afresh = now - self._checked_at > _FRESH_SECONDS
        self._checked_at = now if afresh else self._checked_at
        self._interruptions.check(afresh=afresh)

    def _fail(self, end: UnitEnd, unit: FollowedUnit) -> None:
        """Let a unit wait for another carrier, or note that it has failed."""
        tries = (*self._tries.get(end.unit, ()), end.outcome)
        self._failures.setdefault(end.carrier.number, {})[unit.element] = end.outcome
        if self._interruptions.is_terminated:
            return
        told = f"{self._label(end)}{_title(end)} ended as {end.ended.state}"
        if end.unit in end.carrier.over:
            # Its end is that of an earlier attempt, and not of this one.
            self._log("warning", f"{told} before this call looked for it; it is followed by another attempt")
            self._waiting[end.unit] = self._tries[end.unit] = tries
            return
        spec = self._spec_of(end.unit)
        following = decide_next(spec.request, tries, spec.rules, spec.chain)
        if following.again:
            self._log("warning", f"{told}: {following.reason}")
            self._waiting[end.unit] = self._tries[end.unit] = tries
            return
        if spec.rules is not None or spec.chain.continues(end.outcome):
            self._log("warning", f"{told}, and {following.reason}")
        self._note_failure(end, self._error(end, unit))

    def _note_failure(self, end: UnitEnd, error: DagsterSlurmError) -> None:
        self.failed[end.unit] = (error, end)
        if end.unit:
            self._log("error", f"{self._label(end)}{error}")

    def _error(self, end: UnitEnd, unit: FollowedUnit) -> JobFailedError:
        place = end.handle.directory.place
        removed = f"its run directory {place} on {self._host} was removed" if end.ended.is_removed else ""
        return job_failure(
            end.ended,
            job_id=end.job_id,
            host=self._host,
            stderr_tail=unit.session.logs.stderr_tail,
            slurm_log_tail=self._carriers.said(end.handle) if len(self.failed) < _MOST_QUOTED else "",
            kept_path=place,
            kept=removed or self._carriers.kept(end.handle),
            request=end.carrier.request_of(end.unit),
            gave_up_waiting=end.gave_up_waiting,
            missing=lambda module: (
                self._spec_of(end.unit).beside_payload(module) or self._carriers.missing_of(end.unit, module)
            ),
        )

    def _label(self, end: UnitEnd) -> str:
        return f"{self.NOUN.capitalize()} {end.unit}: " if end.unit else ""

    def _close(self, carrier: Carrier) -> None:
        if carrier.number in self._uncollected:
            return
        try:
            self._carriers.close(carrier, self._failures.pop(carrier.number, {}))
        except DagsterSlurmError as error:
            # What it brought is known; a retry that finds it open follows it to its end once more.
            self._log("warning", f"{carrier.title} was not tidied up: {error}")

    def _give_up_on_late_ones(self) -> None:
        """Cancel a carrier of which nothing has started within `max_queue_hours`."""
        for late in self._followed.late():
            self._log("warning", f"{late.title} has waited for max_queue_hours; cancelling it if it still waits")
            self._carriers.cancel_waiting(late)

    def _stay_fresh(self) -> None:
        """Sites and users remove what was not touched for days; a job that waits in the queue cannot touch anything."""
        if time.monotonic() >= self._touch_at:
            self._touch_at = time.monotonic() + _TOUCH_SECONDS
            self._carriers.stay_fresh()

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if now < self._progress_at or len(self._units) == 1:
            return
        if self._progress_at:
            failed = f", {len(self.failed)} failed" if self.failed else ""
            done, running = len(self._done), self._followed.running
            self._log("info", f"{done} of {len(self._units)} {self.NOUN}s are done{failed}; {running} run")
        self._progress_at = now + _PROGRESS_SECONDS

    def _log(self, level: str, text: str) -> None:
        self._teller.tell(lambda: self._step.log.log(level, text))

    @property
    def _host(self) -> str:
        return self._carriers.host


def next_carrier(
    waiting: Mapping[str, Sequence[Outcome]], request_of: Callable[[Sequence[Outcome]], JobRequest]
) -> tuple[JobRequest, list[str]]:
    """What of the units that wait goes into one carrier: all that ask for the same as the first. Pure.

    Args:
        waiting: How the attempts at each unit have ended so far, in the order of the units.
        request_of: What a unit asks for after that.
    """
    requests = {unit: request_of(tries) for unit, tries in waiting.items()}
    first = next(iter(requests.values()))
    return first, [unit for unit, request in requests.items() if request == first]


def _title(end: UnitEnd) -> str:
    return f"Slurm {'job' if end.handle.session is None else 'step'} {end.job_id}" if end.job_id else "The payload"
