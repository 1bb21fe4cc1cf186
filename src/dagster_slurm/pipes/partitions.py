"""All partitions of a step as job arrays: found or begun, fed, followed, each on record at the moment it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dagster import AssetKey

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
    Ended,
)
from dagster_slurm.job.failure import job_failure
from dagster_slurm.job.retrying import Outcome, decide_next, next_request
from dagster_slurm.pipes.arrays import ArrayJob, CallArrays, next_array
from dagster_slurm.pipes.cluster_calls import CANCEL_SECONDS, ClusterCalls
from dagster_slurm.pipes.followed_arrays import FollowedArrays, Task
from dagster_slurm.pipes.interruptions import Interruptions, TerminationRequestedError
from dagster_slurm.pipes.outcome import SlurmOutcome
from dagster_slurm.pipes.partition_results import Recorder
from dagster_slurm.pipes.step import Step
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.work.spec import WorkSpec

_EVENT_SECONDS = 0.5
_PROGRESS_SECONDS = 10.0
_FULL_SECONDS = 5.0
# What has failed is gathered, so that a hundred tasks that are tried again are no hundred arrays.
_GATHER_SECONDS = 30.0
_FRESH_SECONDS = 1.0


class TerminatedPartitionsError(Exception):
    """A user has terminated the run. What was done about the jobs is the message."""


class PartitionsLaunch:
    """One `compute.run_partitions` call on a cluster.

    Args:
        step: The step.
        connection: The cluster.
        spec: What is to be run for each partition.
        arrays: The call's arrays.
        partitions: The partition keys, in their order.
        done: Which assets are on record for a partition.
        recorder: Takes the results.
        interruptions: What may end the call before the jobs do.
    """

    def __init__(
        self,
        step: Step,
        connection: ClusterConnection,
        spec: WorkSpec,
        arrays: CallArrays,
        partitions: Sequence[str],
        done: Mapping[str, set[AssetKey]],
        recorder: Recorder,
        interruptions: Interruptions,
    ) -> None:
        self._step = step
        self._connection = connection
        self._cluster = connection.cluster
        self._spec = spec
        self._arrays = arrays
        self._partitions = tuple(partitions)
        self._by_name = {str(partition): partition for partition in partitions}
        self._done = done
        self._recorder = recorder
        self._interruptions = interruptions
        self._max_parallel = spec.tasks.max_parallel if spec.tasks else None
        self._calls = ClusterCalls(step, self._cluster, interruptions)
        self._followed = FollowedArrays(step, connection)
        self._outcomes: dict[str, list[Outcome]] = {}
        self._pool: dict[str, list[Outcome]] = {}
        self.failed: dict[str, JobFailedError] = {}
        self._complete = {
            partition for partition in self._partitions if set(step.asset_keys) <= done.get(partition, set())
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
            while self._pool or self._followed:
                self._interruptions.check()
                self._feed()
                self._follow_on()
                self._give_up_on_late_ones()
                self._tell_progress()
        except TerminationRequestedError:
            raise TerminatedPartitionsError(self._cancel()) from None
        finally:
            self._followed.forget()

    def _look(self) -> None:
        """Take up the arrays there are; what is in none of them waits for a task."""
        known = self._calls.persist(self._arrays.known)
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
        gone = self._followed.partitions | self._complete | set(self.failed)
        self._pool = {partition: [] for partition in self._partitions if partition not in gone}

    def _follow(self, array: ArrayJob) -> None:
        tasks = {
            task: self._by_name[name]
            for task, name in enumerate(array.partitions)
            if name in self._by_name and self._by_name[name] not in self._complete
        }
        limit = None if array.request is None else array.request.max_queue_seconds
        give_up_at = None if limit is None else time.monotonic() + limit
        if tasks:
            self._followed.add(array, tasks, give_up_at=give_up_at)
        else:
            self._close(array, has_failures=False)

    # -- submitting

    def _feed(self) -> None:
        """Submit an array of partitions that wait for a task, if it is time for one."""
        busy = bool(self._followed)
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
            self._followed.forget()
            self._look()
            return
        self._feed_at = time.monotonic() + (0.0 if room < len(partitions) else _GATHER_SECONDS)

    def _request_after(self, outcomes: Sequence[Any]) -> JobRequest:
        return next_request(self._spec.request, outcomes, self._spec.rules)

    def _room(self, request: JobRequest, wanted: int, *, may_wait: bool) -> int:
        def ask() -> int:
            return self._cluster.room_for_array(request, wanted, self._max_parallel)

        def ask_once() -> int:
            try:
                return ask()
            except SubmitLimitError:
                return 0

        return self._calls.persist(ask if may_wait else ask_once)

    def _submit(self, partitions: Sequence[str], request: JobRequest) -> None:
        activation = self._provided()
        number = self._following
        directory = self._calls.persist(lambda: self._arrays.prepare(number, partitions, request, activation))
        self._interruptions.pause(self._connection.turns.take())
        # A run that was terminated, or taken over, while the files were sent gets no jobs.
        self._interruptions.check(afresh=True)
        self._following += 1
        array = self._calls.persist(lambda: self._arrays.submit(directory, request))
        for partition in filter(None, map(self._by_name.get, array.partitions)):
            self._outcomes[partition] = self._pool.pop(partition, [])
        limit = "" if self._max_parallel is None else f", at most {self._max_parallel} at once"
        self._step.log.info(
            f"Submitted Slurm array {array.handle.job_id} of {len(array.partitions)} partitions{limit} on "
            f"{self._cluster.host} in {activation.description}; its directory is {directory.path}"
        )
        self._follow(array)

    def _provided(self) -> Activation:
        if self._activation is None:
            site = Site(self._cluster, self._step.log.info, self._spec.force_env_push)
            self._activation = self._calls.persist(lambda: self._spec.environment.provide(site))
        return self._activation

    # -- following

    def _follow_on(self) -> None:
        """Pass on what tasks say, and take the end of one."""
        self._followed.take_in()
        end = self._followed.next_end()
        if end is not None:
            self._ended(*end)

    def _ended(self, task: Task, ended: Ended) -> None:
        if ended.is_wordless and not self._owns_its_gate(task):
            return
        task.session.finish()
        try:
            if ended.is_success:
                self._succeeded(task, ended)
            else:
                self._failed(task, ended)
        finally:
            if not task.of.left and not self._interruptions.is_detached:
                self._close(task.of.array, has_failures=task.of.has_failures)

    def _owns_its_gate(self, task: Task) -> bool:
        """Whether an array whose tasks completed without a word took the gate; if not, the one that did is followed.

        Raises:
            ResultLostError: The directory is not there any more.
        """
        array = task.of.array
        owner = self._calls.persist(lambda: self._arrays.gate_owner(array))
        if owner == array.handle.job_id:
            return True
        if JobId.find(owner) is None:
            raise ResultLostError(
                f"The run directory {array.handle.directory.path} was removed before it was read",
                hint="Another process may have collected the results; nothing is submitted again.",
                host=self._cluster.host,
                job_id=array.handle.job_id,
            )
        tasks = {**self._followed.forget(array), task.number: task.partition}
        self._followed.add(
            replace(array, handle=replace(array.handle, job_id=owner)), tasks, give_up_at=task.of.give_up_at
        )
        return False

    def _succeeded(self, task: Task, ended: Ended) -> None:
        request = task.of.array.request or self._spec.request
        metadata = self._spec.metadata(SlurmOutcome(task.job_id, ended, request, self._connection))
        done = self._done.get(task.partition, set())
        try:
            self._check_now_and_then()
        finally:
            if not self._interruptions.is_detached:
                self._recorder.record(task.partition, task.session, metadata, job_id=task.job_id, done=done)
                self._complete.add(task.partition)

    def _check_now_and_then(self) -> None:
        """A run that was given up meanwhile has a retry, or may get one, which records what comes from now on."""
        now = time.monotonic()
        afresh = now - self._checked_at > _FRESH_SECONDS
        self._checked_at = now if afresh else self._checked_at
        self._interruptions.check(afresh=afresh)

    def _failed(self, task: Task, ended: Ended) -> None:
        """Let a partition wait for another task, or note that it has failed."""
        task.of.has_failures = True
        if self._interruptions.is_terminated:
            return
        outcomes = [*self._outcomes.get(task.partition, []), Outcome.of(ended.state, ended.end_mark, ended.record)]
        following = decide_next(self._spec.request, outcomes, self._spec.rules, self._spec.chain)
        told = f"Partition {task.partition}: Slurm job {task.job_id} ended as {ended.state}"
        if following.again:
            self._step.log.warning(f"{told}: {following.reason}")
            self._pool[task.partition] = outcomes
        elif task.of.array.request is None:
            self._step.log.warning(f"{told}; an earlier run has submitted it, which this one retries")
            self._pool[task.partition] = []
        else:
            self.failed[task.partition] = self._error(task, ended)
            self._step.log.error(f"Partition {task.partition}: {self.failed[task.partition]}")

    def _error(self, task: Task, ended: Ended) -> JobFailedError:
        return job_failure(
            ended,
            job_id=task.job_id,
            host=self._cluster.host,
            stderr_tail=str(task.session.logs.stderr_tail),
            slurm_log_tail="",
            kept_path=task.place,
            request=task.of.array.request,
            gave_up_waiting=task.of.gave_up_waiting,
        )

    def _close(self, array: ArrayJob, *, has_failures: bool) -> None:
        try:
            self._arrays.close(array, has_failures=has_failures)
        except DagsterSlurmError as error:
            # What it brought is on record; a retry that finds it open follows it to its end once more.
            self._step.log.warning(f"Slurm array {array.handle.job_id} was not tidied up: {error}")

    def _give_up_on_late_ones(self) -> None:
        """Cancel an array of which no task has started within `max_queue_hours`."""
        for late in self._followed.late():
            job_id = late.array.handle.job_id
            self._step.log.warning(f"Slurm array {job_id} has waited for max_queue_hours; cancelling what waits")
            self._cancel_waiting(job_id)

    def _cancel_waiting(self, job_id: str) -> None:
        self._calls.persist(lambda: self._cluster.cancel([job_id], only_pending=True))

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if now < self._progress_at:
            return
        if self._progress_at:
            failed = f", {len(self.failed)} failed" if self.failed else ""
            self._step.log.info(
                f"{len(self._complete)} of {len(self._partitions)} partitions are done{failed}; "
                f"{self._followed.running} run"
            )
        self._progress_at = now + _PROGRESS_SECONDS

    # -- cancelling

    def _cancel(self) -> str:
        """Take back every array, wait for Slurm a while, and say what came of it."""
        self._step.log.info("The run was terminated: cancelling its Slurm arrays")
        until = time.monotonic() + CANCEL_SECONDS
        job_ids = self._calls.withdraw(self._arrays.launches(self._following + 1))
        while self._followed and time.monotonic() < until:
            self._follow_on()
        if not job_ids:
            return "no job was submitted"
        names = ", ".join(job_ids)
        end = "was cancelled" if not self._followed else "was cancelled, and has not ended yet, as far as Slurm says"
        return f"Slurm array {names} {end}"
