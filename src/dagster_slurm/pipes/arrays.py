"""The job arrays of one call, one after the other: each is a launch of its own, and knows which partitions it has.

A partition that did not succeed in one array gets a task of a later one, and only after the earlier one is closed.
See docs/adr/0013.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.look import Ask, Look, look
from dagster_slurm.cluster.records import AttemptRecord
from dagster_slurm.environments import Activation
from dagster_slurm.errors import ResultLostError
from dagster_slurm.job.batch_script import env_file
from dagster_slurm.job.handle import JobHandle, short_digest
from dagster_slurm.job.submission import look_for_jobs, submit_once
from dagster_slurm.pipes.description import describe, differences, digests
from dagster_slurm.pipes.elements import partition_variables
from dagster_slurm.pipes.launch_key import PieceOfWork
from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import RunDirectory, task_files
from dagster_slurm.slurm.arrays import array_option
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging.store import InputStore
from dagster_slurm.work.spec import WorkSpec

# What one round trip looks for; a call rarely has more.
_ARRAYS_AT_ONCE = 32


@dataclass(frozen=True)
class ArrayJob:
    """One submitted array.

    Args:
        handle: The array, as a job.
        partitions: Its partitions, by the number of the task.
        request: What was asked of Slurm for each; None for one that an earlier process has submitted.
        changed: What was another when it was submitted, in words.
    """

    handle: JobHandle
    partitions: tuple[str, ...]
    request: JobRequest | None = None
    changed: tuple[str, ...] = ()

    def handle_of(self, task: int) -> JobHandle:
        """One task."""
        task_id = str(JobId.parse(self.handle.job_id).of_task(task))
        return JobHandle(self.handle.directory.of_element(task), task_id, self.handle.generation)


@dataclass(frozen=True)
class KnownArrays:
    """What there is of a call's arrays.

    Args:
        open: Those that may have results, or get some.
        following: The number of the next one.
    """

    open: tuple[ArrayJob, ...]
    following: int


class CallArrays:
    """The arrays of one call on one cluster. Every method may be repeated at any time.

    Args:
        step: The step.
        cluster: The cluster.
        work: Which piece of work the call is.
        spec: What is to be run for each partition.
    """

    def __init__(
        self,
        step: Step,
        cluster: SlurmCluster,
        work: PieceOfWork,
        spec: WorkSpec,
    ) -> None:
        self._step = step
        self._cluster = cluster
        self._claims = Claims(cluster)
        self._work = work
        self._spec = spec
        self._contexts = step.pipes.contexts(spec.extras)
        self._digests = digests(spec.payload, spec.request, spec.environment.title, spec.staging.inputs.version())

    def known(self) -> KnownArrays:
        """The arrays that were submitted for this call, by whatever process.

        One that was begun and has no job is closed: nothing can come of it any more.
        """
        found: list[ArrayJob] = []
        number = 0
        while True:
            launches = [self._launch(number + ahead) for ahead in range(_ARRAYS_AT_ONCE)]
            seen = look_for_jobs(self._cluster, launches, ask=Ask.LOST)
            for launch in launches:
                newest = seen.listing.newest(launch)
                if newest is None:
                    return KnownArrays(tuple(found), number)
                known = self._known(newest[1], seen)
                if known is None and not self._close(newest[1]):
                    break
                found += [known] if known else []
                number += 1

    def _known(self, attempt: AttemptRecord, seen: Look) -> ArrayJob | None:
        """One that has a job."""
        self._claims.refuse_other_protocol(attempt)
        job_id = self._claims.job_id(attempt, seen.slurm)
        if job_id is None:
            return None
        handle = JobHandle(attempt.directory, job_id, attempt.generation or 0)
        changed = tuple(differences(attempt.description, self._digests))
        return ArrayJob(handle, attempt.description.elements, None, changed)

    def _close(self, attempt: AttemptRecord) -> bool:
        return attempt.is_closed or self._claims.close(attempt.directory, generation=attempt.generation)

    def prepare(
        self, number: int, partitions: Sequence[str], request: JobRequest, activation: Activation
    ) -> RunDirectory:
        """Put everything that an array needs on the cluster."""
        directory, spec = self._launch(number), self._spec
        inputs = InputStore(self._cluster, spec.staging.inputs, self._step.log.info)
        inputs.upload()
        array = array_option(len(partitions), spec.tasks.max_parallel if spec.tasks else None)
        work = replace(self._work, key=replace(self._work.key, call=self._call(number)))
        directory.create(
            self._cluster.transport,
            script=spec.batch_script(directory, activation, request, array=array),
            env=env_file({"PYTHONUNBUFFERED": "1", **(spec.extra_env or {})}),
            context=json.dumps(self._contexts.of_step).encode(),
            work=spec.files,
            tasks=[
                entry
                for task, partition in enumerate(partitions)
                for entry in task_files(
                    task,
                    env=env_file(self._variables(directory.of_element(task), partition)),
                    context=json.dumps(self._contexts.of(partition)).encode(),
                )
            ],
            description=describe(
                self._step, work, self._digests, environment_path=activation.path, elements=partitions
            ).to_json(),
            progress=lambda report: self._step.log.info(str(report)),
        )
        inputs.place(directory.work)
        return directory

    def submit(self, directory: RunDirectory, request: JobRequest) -> ArrayJob:
        """Submit an array, or find that it was. Of two processes that prepare one, the first's partitions count.

        Raises:
            AttemptClosedError: Another process has closed it; what there is, is to be looked for again.
            ResultLostError: Its directory does not say, or not any more, which partitions it has.
        """
        handle = submit_once(self._claims, directory)
        newest = look(self._cluster, [directory]).listing.newest(directory)
        partitions = newest[1].description.elements if newest else ()
        if not partitions:
            raise ResultLostError(
                f"{directory.path} does not say which partitions Slurm array {handle.job_id} has",
                host=self._cluster.host,
                job_id=handle.job_id,
            )
        return ArrayJob(handle, partitions, request)

    def gate_owner(self, array: ArrayJob) -> str:
        """The array that runs the payloads, `revoked`, or nothing."""
        directory = array.handle.directory
        return look(self._cluster, [directory]).listing.gate_owner(directory, array.handle.generation)

    def close(self, array: ArrayJob, *, has_failures: bool) -> None:
        """Every task of it has ended, and what it brought is on record."""
        self._claims.close(array.handle.directory, generation=array.handle.generation)
        if has_failures:
            array.handle.directory.trim(self._cluster.transport)

    def launches(self, count: int) -> list[RunDirectory]:
        """The directories of the first arrays."""
        return [self._launch(number) for number in range(count)]

    def _call(self, number: int) -> str:
        return f"{self._work.key.call}.array{number}"

    def _launch(self, number: int) -> RunDirectory:
        return replace(self._work.key, call=self._call(number)).first_attempt(self._cluster.base())

    def _variables(self, directory: RunDirectory, partition: str) -> Mapping[str, str]:
        # One place for all arrays of the call: a task that comes later finds what an earlier one has left.
        checkpoint = f"{self._launch(0).checkpoint}/{short_digest(partition)}"
        return {
            "DAGSTER_SLURM_CHECKPOINT_DIR": checkpoint,
            **partition_variables(partition, context=directory.context, messages=directory.messages),
        }


def next_array(
    pool: Mapping[str, Sequence[object]], request_of: Callable[[Sequence[object]], JobRequest]
) -> tuple[JobRequest, list[str]]:
    """What of the partitions that wait goes into one array: all that ask for the same as the first. Pure.

    Args:
        pool: How the tasks of each partition have ended so far, in the order of the partitions.
        request_of: What a partition asks for after that.
    """
    requests = {partition: request_of(outcomes) for partition, outcomes in pool.items()}
    first = next(iter(requests.values()))
    return first, [partition for partition, request in requests.items() if request == first]
