"""All partitions of a step as job arrays: found or begun, fed, followed, each on record at the moment it ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from dagster import AssetKey, OpExecutionContext

from dagster_slurm.environments import Activation, Site
from dagster_slurm.errors import (
    AttemptClosedError,
    DagsterSlurmError,
    JobFailedError,
    ResultLostError,
    SubmitLimitError,
)
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import (
    Broken,
    Ended,
    Event,
    Listener,
    ManySubscriptions,
    Notice,
    Output,
    Started,
    StateChanged,
    Waiting,
)
from dagster_slurm.job.failure import job_failure
from dagster_slurm.job.persistence import Persistence
from dagster_slurm.job.retrying import Outcome, decide_next, next_request
from dagster_slurm.job.standing import outcome_of
from dagster_slurm.job.waiting import line_of
from dagster_slurm.pipes.arrays import ArrayJob, CallArrays, next_array
from dagster_slurm.pipes.elements import ElementSession
from dagster_slurm.pipes.interruptions import Interruptions, TerminationRequestedError
from dagster_slurm.pipes.order import Order
from dagster_slurm.pipes.outcome import MetadataOf, SlurmOutcome
from dagster_slurm.pipes.partition_results import Recorder
from dagster_slurm.pipes.step_logs import StepLogs
from dagster_slurm.slurm.request import JobRequest

T = TypeVar("T")

_EVENT_SECONDS = 0.5
_CONFIRM_SECONDS = 60.0
_PROGRESS_SECONDS = 10.0
_FULL_SECONDS = 5.0
# What has failed is gathered, so that a hundred tasks that are tried again are no hundred arrays.
_GATHER_SECONDS = 30.0
_FRESH_SECONDS = 1.0


@dataclass
class _Element:
    """One task that is followed."""

    array: ArrayJob
    task: int
    partition: str
    listener: Listener
    session: ElementSession | None = None
    has_started: bool = False

    @property
    def job_id(self) -> str:
        return self.array.handle_of(self.task).job_id


@dataclass
class _Followed:
    """One array that is followed."""

    array: ArrayJob
    left: set[int]
    give_up_at: float | None
    has_failures: bool = False
    gave_up_waiting: bool = False
    told: set[str] = field(default_factory=set)


class TerminatedPartitionsError(Exception):
    """A user has terminated the run. What was done about the jobs is the message."""


class PartitionsLaunch:
    """One `compute.run_partitions` call on a cluster.

    Args:
        step: The step's context.
        connection: The cluster.
        order: What is to be run for each partition.
        arrays: The call's arrays.
        partitions: The partition keys, in their order.
        done: Which assets are on record for a partition.
        recorder: Takes the results.
        interruptions: What may end the call before the jobs do.
        max_parallel: How many tasks run at once; None for no limit of ours.
        metadata: What a task adds to the metadata of its results.
    """

    def __init__(
        self,
        step: OpExecutionContext,
        connection: ClusterConnection,
        order: Order,
        arrays: CallArrays,
        *,
        partitions: Sequence[str],
        done: Mapping[str, set[AssetKey]],
        recorder: Recorder,
        interruptions: Interruptions,
        max_parallel: int | None,
        metadata: MetadataOf,
    ) -> None:
        self._step = step
        self._connection = connection
        self._cluster = connection.cluster
        self._order = order
        self._arrays = arrays
        self._partitions = tuple(partitions)
        self._by_name = {str(partition): partition for partition in partitions}
        self._done = done
        self._recorder = recorder
        self._interruptions = interruptions
        self._max_parallel = max_parallel
        self._metadata_of = metadata
        self._persist_call = Persistence(
            tell=lambda text, level: step.log.log(level, text),
            reached=lambda: self._cluster.was_reached,
            sleep=interruptions.pause,
        )
        self._line = ManySubscriptions()
        self._logs = StepLogs()
        self._elements: dict[int, _Element] = {}
        self._serial = 0
        self._ends: deque[tuple[int, Ended]] = deque()
        self._followed: list[_Followed] = []
        self._outcomes: dict[str, list[Outcome]] = {}
        self._pool: dict[str, list[Outcome]] = {}
        self.failed: dict[str, JobFailedError] = {}
        self._complete = {
            partition for partition in self._partitions if set(step.selected_asset_keys) <= done.get(partition, set())
        }
        self._following = 0
        self._feed_at = 0.0
        self._progress_at = 0.0
        self._checked_at = 0.0
        self._activation: Activation | None = None

    @property
    def array_count(self) -> int:
        """How many arrays the call has had by now."""
        return self._following

    def to_the_end(self) -> None:
        """Follow the arrays there are, submit what is missing, and record each partition that succeeds.

        Raises:
            TerminatedPartitionsError: A user has terminated the run.
            DagsterExecutionInterruptedError: The monitoring is to end; the jobs go on.
            InvalidRequestError: Something about the request is wrong; nothing was uploaded or submitted.
            TransportError: The cluster could not be reached, or its directory not be written.
            SlurmError: Slurm's answer is not usable.
        """
        try:
            self._look()
            while self._pool or self._elements:
                self._interruptions.check()
                self._feed()
                self._take_in(0.0 if self._ends else _EVENT_SECONDS)
                self._record_one()
                self._look_at_queue_times()
                self._tell_progress()
        except TerminationRequestedError:
            raise TerminatedPartitionsError(self._cancel()) from None
        finally:
            self._forget()

    def _forget(self) -> None:
        self._connection.watcher.forget(*(element.listener for element in self._elements.values()))
        self._elements.clear()
        self._followed.clear()

    def _look(self) -> None:
        """Take up the arrays there are; what is in none of them waits for a task."""
        known = self._persist(self._arrays.known)
        self._following = known.following
        for array in known.open:
            for what in array.changed:
                self._step.log.warning(f"Slurm array {array.handle.job_id} was submitted when {what} was another")
            self._step.log.info(
                f"Reattaching to Slurm array {array.handle.job_id} on {self._cluster.host}, which this piece of work "
                f"has already; its directory is {array.handle.directory.path}"
            )
            self._follow(array)
        self._feed_at = time.monotonic() + (_GATHER_SECONDS if known.open else 0.0)
        taken = {element.partition for element in self._elements.values()}
        self._pool = {
            partition: []
            for partition in self._partitions
            if partition not in taken and partition not in self._complete
        }

    def _follow(self, array: ArrayJob) -> None:
        tasks = {
            task: self._by_name[name]
            for task, name in enumerate(array.partitions)
            if name in self._by_name and self._by_name[name] not in self._complete
        }
        limit = (array.request or self._order.request).max_queue_seconds
        give_up_at = None if limit is None or array.request is None else time.monotonic() + limit
        followed = _Followed(array, set(tasks), give_up_at)
        if not tasks:
            self._close(followed)
            return
        self._followed.append(followed)
        watched = []
        for task, partition in tasks.items():
            self._serial += 1
            listener = self._line.of(self._serial)
            self._elements[self._serial] = _Element(array, task, partition, listener)
            watched.append((array.handle_of(task), listener))
        self._connection.watcher.watch_all(watched)

    # -- submitting

    def _feed(self) -> None:
        """Submit an array of partitions that wait for a task, if it is time for one."""
        busy = bool(self._elements)
        if not self._pool or (busy and (self._max_parallel is not None or time.monotonic() < self._feed_at)):
            return
        request, partitions = next_array(self._pool, self._request_after)
        room = self._room(request, len(partitions), may_wait=not busy)
        if room == 0:
            self._feed_at = time.monotonic() + _FULL_SECONDS
            return
        try:
            self._submit(partitions[:room], request)
        except AttemptClosedError:
            # Another process works on the same: what it has is found, and adopted.
            self._forget()
            self._look()
            return
        self._feed_at = time.monotonic() + (0.0 if room < len(partitions) else _GATHER_SECONDS)

    def _request_after(self, outcomes: Sequence[Any]) -> JobRequest:
        return next_request(self._order.request, outcomes, self._order.rules)

    def _room(self, request: JobRequest, wanted: int, *, may_wait: bool) -> int:
        def ask() -> int:
            return self._cluster.room_for_array(request, wanted, self._max_parallel)

        def ask_once() -> int:
            try:
                return ask()
            except SubmitLimitError:
                return 0

        return self._persist(ask if may_wait else ask_once)

    def _submit(self, partitions: Sequence[str], request: JobRequest) -> None:
        activation = self._provided()
        number = self._following
        directory = self._persist(lambda: self._arrays.prepare(number, partitions, request, activation))
        self._interruptions.pause(self._connection.turns.take())
        # A run that was terminated, or taken over, while the files were sent gets no jobs.
        self._interruptions.check(afresh=True)
        self._following += 1
        array = self._persist(lambda: self._arrays.submit(directory, partitions, request))
        for partition in partitions:
            self._outcomes[partition] = self._pool.pop(partition)
        limit = "" if self._max_parallel is None else f", at most {self._max_parallel} at once"
        self._step.log.info(
            f"Submitted Slurm array {array.handle.job_id} of {len(partitions)} partitions{limit} on "
            f"{self._cluster.host} in {activation.description}; its directory is {directory.path}"
        )
        self._follow(array)

    def _provided(self) -> Activation:
        if self._activation is None:
            site = Site(self._cluster, self._step.log.info, self._order.force_env_push)
            self._activation = self._persist(lambda: self._order.environment.provide(site))
        return self._activation

    # -- following

    def _take_in(self, timeout_seconds: float) -> None:
        """Pass on what was told, all of it, after the first wait; ends wait behind the lines of all others.

        An end costs some ten milliseconds in Dagster's storage, and with hundreds at once lines would be late.
        """
        news = self._line.get(timeout_seconds)
        while news is not None:
            serial, event = news
            if isinstance(event, Ended):
                self._ends.append((serial, event))
            elif serial in self._elements:
                self._pass_on(self._elements[serial], event)
            news = self._line.get(0.0)

    def _record_one(self) -> None:
        if self._ends:
            serial, ended = self._ends.popleft()
            if serial in self._elements:
                self._ended(serial, self._elements[serial], ended)

    def _pass_on(self, element: _Element, event: Event) -> None:
        if isinstance(event, Output):
            self._session_of(element).take(event.stream, event.data)
        elif isinstance(event, Started):
            element.has_started = True
            if event.restart:
                self._session_of(element).reader.restart()
        elif isinstance(event, (Waiting, StateChanged)):
            self._tell_once(element, *line_of(element.array.handle.job_id, event))
        elif isinstance(event, Notice):
            self._tell_once(element, event.level, event.text)
        elif isinstance(event, Broken):
            raise event.error

    def _session_of(self, element: _Element) -> ElementSession:
        if element.session is None:
            directory = element.array.handle_of(element.task).directory
            element.session = ElementSession(
                self._step, element.partition, messages=directory.messages, logs=self._logs
            )
        return element.session

    def _tell_once(self, element: _Element, level: str, text: str) -> None:
        """What holds for an array is said once, and not by every task of it."""
        followed = self._of(element)
        if text not in followed.told:
            followed.told.add(text)
            self._step.log.log(level, text)

    def _of(self, element: _Element) -> _Followed:
        return next(each for each in self._followed if each.array is element.array)

    def _ended(self, serial: int, element: _Element, ended: Ended) -> None:
        followed = self._of(element)
        if ended.state.is_success and ended.node is None and not self._owns_its_gate(followed):
            return
        session = self._session_of(element)
        session.finish()
        del self._elements[serial]
        followed.left.discard(element.task)
        if ended.state.is_success:
            self._succeeded(element, session, ended)
        else:
            self._failed(element, session, ended, followed)
        if not followed.left:
            self._followed.remove(followed)
            self._close(followed)

    def _owns_its_gate(self, followed: _Followed) -> bool:
        """Whether an array whose tasks completed without a word took the gate; if not, the one that did is followed.

        Raises:
            ResultLostError: The directory is not there any more.
        """
        array = followed.array
        owner = self._persist(lambda: self._arrays.gate_owner(array))
        if owner == array.handle.job_id:
            return True
        if not owner.isdecimal():
            raise ResultLostError(
                f"The run directory {array.handle.directory.path} was removed before it was read",
                hint="Another process may have collected the results; nothing is submitted again.",
                host=self._cluster.host,
                job_id=array.handle.job_id,
            )
        mine = {serial: each for serial, each in self._elements.items() if each.array is array}
        self._connection.watcher.forget(*(each.listener for each in mine.values()))
        for serial in mine:
            del self._elements[serial]
        self._followed.remove(followed)
        self._follow(replace(array, handle=replace(array.handle, job_id=owner)))
        return False

    def _succeeded(self, element: _Element, session: ElementSession, ended: Ended) -> None:
        request = element.array.request or self._order.request
        metadata = self._metadata_of(SlurmOutcome(element.job_id, ended, request, self._connection))
        done = self._done.get(element.partition, set())
        try:
            self._check_now_and_then()
        finally:
            if not self._interruptions.is_detached:
                self._recorder.record(element.partition, session, metadata, job_id=element.job_id, done=done)
                self._complete.add(element.partition)

    def _check_now_and_then(self) -> None:
        """A run that was given up meanwhile has a retry, or may get one, which records what comes from now on."""
        now = time.monotonic()
        afresh = now - self._checked_at > _FRESH_SECONDS
        self._checked_at = now if afresh else self._checked_at
        self._interruptions.check(afresh=afresh)

    def _failed(self, element: _Element, session: ElementSession, ended: Ended, followed: _Followed) -> None:
        followed.has_failures = True
        error = job_failure(
            ended,
            job_id=element.job_id,
            host=self._cluster.host,
            stderr_tail=str(session.logs.stderr_tail),
            slurm_log_tail="",
            kept_path=element.array.handle_of(element.task).directory.place,
            request=element.array.request,
            gave_up_waiting=followed.gave_up_waiting,
        )
        if self._interruptions.is_terminated:
            return
        outcomes = [*self._outcomes.get(element.partition, []), outcome_of(ended.state, ended.end_mark, ended.record)]
        following = decide_next(self._order.request, outcomes, self._order.rules, self._order.chain)
        # What an earlier process has submitted, this run was asked to try again.
        is_retry = element.array.request is None
        if following.again or is_retry:
            why = following.reason if following.again else "it was submitted by an earlier run, which this one retries"
            self._step.log.warning(
                f"Partition {element.partition}: Slurm job {element.job_id} ended as {ended.state}: {why}"
            )
            self._pool[element.partition] = outcomes if following.again else []
            return
        self.failed[element.partition] = error
        self._step.log.error(f"Partition {element.partition}: {error}")

    def _close(self, followed: _Followed) -> None:
        try:
            self._arrays.close(followed.array, has_failures=followed.has_failures)
        except DagsterSlurmError as error:
            # What it brought is on record; a retry that finds it open follows it to its end once more.
            self._step.log.warning(f"Slurm array {followed.array.handle.job_id} was not tidied up: {error}")

    def _look_at_queue_times(self) -> None:
        """Cancel an array of which no task has started within `max_queue_hours`."""
        for followed in self._followed:
            if followed.give_up_at is None:
                continue
            if any(each.has_started for each in self._elements.values() if each.array is followed.array):
                followed.give_up_at = None
            elif time.monotonic() >= followed.give_up_at:
                followed.give_up_at, followed.gave_up_waiting = None, True
                job_id = followed.array.handle.job_id
                self._step.log.warning(f"Slurm array {job_id} has waited for max_queue_hours; cancelling what waits")
                self._persist(lambda job_id=job_id: self._cluster.cancel([job_id], only_pending=True))  # type: ignore[misc]

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if now < self._progress_at:
            return
        if self._progress_at:
            running = sum(element.has_started for element in self._elements.values())
            failed = f", {len(self.failed)} failed" if self.failed else ""
            self._step.log.info(
                f"{len(self._complete)} of {len(self._partitions)} partitions are done{failed}; {running} run"
            )
        self._progress_at = now + _PROGRESS_SECONDS

    # -- cancelling

    def _cancel(self) -> str:
        """Take back every array, wait for Slurm a while, and say what came of it."""
        self._step.log.info("The run was terminated: cancelling its Slurm arrays")
        until = time.monotonic() + _CONFIRM_SECONDS
        launches = self._arrays.launches(self._following + 1)
        job_ids: list[str] = []
        for directory in launches:
            withdrawn = self._bounded(lambda directory=directory: self._arrays.withdraw(directory))  # type: ignore[misc]
            if withdrawn is None:
                continue
            job_ids += withdrawn.job_ids
            if withdrawn.job_names:
                self._bounded(lambda names=withdrawn.job_names: self._cluster.cancel_by_name(names))  # type: ignore[misc]
        if job_ids:
            self._bounded(lambda: self._cluster.cancel(job_ids))
        while self._elements and time.monotonic() < until:
            self._take_in(0.0 if self._ends else _EVENT_SECONDS)
            self._record_one()
        if not job_ids:
            return "no job was submitted"
        names = ", ".join(dict.fromkeys(job_ids))
        end = "was cancelled" if not self._elements else "was cancelled, and has not ended yet, as far as Slurm says"
        return f"Slurm array {names} {end}"

    def _bounded(self, call: Callable[[], T]) -> T | None:
        """Make a call of a cancellation: a while, and no longer. None without an answer."""
        try:
            return self._interruptions.beside(call, timeout_seconds=_CONFIRM_SECONDS / 2)
        except (DagsterSlurmError, TimeoutError) as error:
            self._step.log.error(f"Cancelling on {self._cluster.host} has not succeeded: {error}")
            return None

    def _persist(self, call: Callable[[], T]) -> T:
        return self._persist_call(lambda: self._interruptions.beside(call))
