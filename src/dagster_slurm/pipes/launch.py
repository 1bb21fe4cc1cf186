"""One call's way to the end of its job: find it or begin it, follow it, cancel it if the run is terminated."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.look import look
from dagster_slurm.environments import Activation, Site
from dagster_slurm.errors import AttemptClosedError, ResultLostError, SubmitLimitError
from dagster_slurm.job.batch_script import env_file
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import Ended
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.job.reattach import Found, Others, Reattachment
from dagster_slurm.job.retrying import Outcome, next_request
from dagster_slurm.job.submission import submit_once
from dagster_slurm.pipes.cluster_calls import CANCEL_SECONDS, ClusterCalls
from dagster_slurm.pipes.data import data_place, outputs_directory, result_name
from dagster_slurm.pipes.description import describe, differences, digests, is_abandoned
from dagster_slurm.pipes.follow import JobFollower
from dagster_slurm.pipes.interruptions import Interruptions, TerminationRequestedError
from dagster_slurm.pipes.launch_key import PieceOfWork, Reattach
from dagster_slurm.pipes.run_tags import finish_tags, tell_in_tags
from dagster_slurm.pipes.session import PayloadSession
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.teller import Teller
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging.collect import Collected, Collector
from dagster_slurm.staging.store import InputStore
from dagster_slurm.work.spec import WorkSpec

_MAX_ROUNDS = 10


@dataclass(frozen=True)
class Finished:
    """The end of a call's job, with everything it reported taken in.

    Args:
        launch: The directory of the call's own launch; it may have adopted the job's.
        handle: The job.
        request: What was asked of Slurm.
        ended: How it ended.
        session: What it reported.
        gave_up_waiting: Whether it was cancelled because it waited longer than `max_queue_hours`.
        earlier: How the attempts before it ended.
        collected: What was taken out of its working directory.
    """

    launch: RunDirectory
    handle: JobHandle
    request: JobRequest
    ended: Ended
    session: PayloadSession
    gave_up_waiting: bool
    earlier: tuple[Outcome, ...]
    collected: Collected = field(default_factory=Collected)

    @property
    def outcome(self) -> Outcome:
        """How it ended, as the next attempt has to know it."""
        return Outcome.of(self.ended.state, self.ended.end_mark, self.ended.record)


class TerminatedError(Exception):
    """A user has terminated the run. What was done about the job is the message."""


class Launch:
    """One `compute.run` call on a cluster.

    Args:
        step: The step.
        connection: The cluster.
        work: Which piece of work it is.
        spec: What is to be run.
        interruptions: What may end the call before the job does.
        reattach: With "asset", a live job of an abandoned materialisation of the same asset is adopted.
    """

    def __init__(
        self,
        step: Step,
        connection: ClusterConnection,
        work: PieceOfWork,
        spec: WorkSpec,
        interruptions: Interruptions,
        *,
        reattach: Reattach,
    ) -> None:
        self._step = step
        self._connection = connection
        self._cluster = connection.cluster
        self._claims = Claims(connection.cluster)
        self._work = work
        self._spec = spec
        self._interruptions = interruptions
        self._adopt_abandoned = reattach == "asset"
        self._digests = digests(spec.payload, spec.request, spec.environment.title, spec.staging.inputs.version())
        self._calls = ClusterCalls(step, self._cluster, interruptions)
        self._teller = Teller()
        self._directory: RunDirectory | None = None
        self._request = spec.request
        self._earlier: tuple[Outcome, ...] = ()

    def to_the_end(self) -> Finished:
        """Find the job or begin it, follow it, and collect its outputs.

        Raises:
            TerminatedError: A user has terminated the run.
            DagsterExecutionInterruptedError: The monitoring is to end; the job, if there is one, goes on.
            InvalidRequestError: Something about the request is wrong; nothing was uploaded or submitted.
            TransportError: The cluster could not be reached, or its directory not be written.
            SlurmError: Slurm's answer is not usable.
            OutputNotFoundError: It has succeeded without one of its outputs.
        """
        try:
            for _ in range(_MAX_ROUNDS):
                found = self._calls.persist(self._find)
                self._directory, self._earlier = found.directory, found.outcomes
                try:
                    finished = self._take_up(found, found.handle) if found.handle else self._begin(found.directory)
                except AttemptClosedError:
                    continue
                if finished is not None:
                    return self._collect(finished)
        except TerminationRequestedError:
            raise TerminatedError(self._cancel()) from None
        raise AttemptClosedError(
            f"Other processes have closed every attempt at {self._work.key.directory_name}", host=self._cluster.host
        )

    def _find(self) -> Found:
        base = self._cluster.base()
        others = Others(
            [key.first_attempt(base) for key in self._work.others],
            self._work.asset_digest if self._adopt_abandoned else "",
            is_abandoned=lambda description: is_abandoned(description, self._step.instance),
        )
        found = Reattachment(self._cluster).find(
            self._work.key.first_attempt(base),
            is_same=lambda description: not differences(description, self._digests),
            others=others,
        )
        if found.was_elsewhere:
            self._step.log.warning("An earlier run of the same work has a job that goes on; this run adopts it")
        return found

    def _take_up(self, found: Found, handle: JobHandle) -> Finished | None:
        """To the end of a job that is there; None if another attempt is to be looked for."""
        with self._session(found.directory) as session:
            self._tell_of_adoption(found, handle)
            finished = self._follow(handle, session)
        if finished is None or finished.ended.is_success or not found.is_over:
            return finished
        # It had ended before this call looked for it: its end is that of an earlier attempt, and not of this one.
        outcome = finished.outcome
        self._step.log.warning(
            f"Slurm job {handle.job_id} had ended as {outcome.state} before this call looked for it; it is followed by "
            "another attempt"
        )
        self._calls.persist(
            lambda: self._claims.close(handle.directory, generation=handle.generation, outcome=outcome.to_json())
        )
        return None

    def _begin(self, directory: RunDirectory) -> Finished | None:
        self._request = self._request_of(directory)
        activation = self._calls.persist(self._check)
        with self._session(directory) as session:
            handle = self._submit(directory, activation, session)
            return self._follow(handle, session)

    def _session(self, directory: RunDirectory) -> AbstractContextManager[PayloadSession]:
        return self._step.pipes.session(
            self._spec.extras, context_path=directory.context, messages_path=directory.messages
        )

    def _check(self) -> Activation:
        """Refuse what is wrong with the request, as Slurm and the cluster see it, before anything is uploaded."""
        self._cluster.check(self._request)
        site = Site(self._cluster, self._step.log.info, self._spec.force_env_push)
        return self._spec.environment.provide(site)

    def _request_of(self, directory: RunDirectory) -> JobRequest:
        """What an attempt asks for, after those before it."""
        if directory.attempt == 0 or self._spec.rules is None:
            return self._spec.request
        return next_request(self._spec.request, self._earlier, self._spec.rules)

    def _submit(self, directory: RunDirectory, activation: Activation, session: PayloadSession) -> JobHandle:
        spec = self._spec
        inputs = InputStore(self._cluster, spec.staging.inputs, self._step.log.info)
        self._calls.persist(inputs.upload)
        script = spec.batch_script(directory, activation, self._request)
        variables = env_file({**_of_the_attempt(directory), **session.variables(spec.extra_env)})
        description = describe(self._step, self._work, self._digests, environment_path=activation.path)
        self._calls.persist(
            lambda: directory.create(
                self._cluster.transport,
                script=script,
                env=variables,
                context=session.context_data,
                work=spec.files,
                description=description.to_json(),
                asset_digest=self._work.asset_digest,
                progress=lambda report: self._step.log.info(str(report)),
            )
        )
        self._calls.persist(lambda: inputs.place(directory.work))
        self._interruptions.pause(self._connection.turns.take())
        # A run that was terminated, or taken over, while the files were sent gets no job.
        self._interruptions.check(afresh=True)
        handle = self._submitted(directory)
        name = directory.job_name(handle.generation)
        line = (
            f"Submitted Slurm job {handle.job_id} ({name}) on {self._cluster.host} "
            f"in {activation.description}; its directory is {directory.path}"
        )
        self._teller.tell(lambda: self._step.log.info(line))
        return handle

    def _submitted(self, directory: RunDirectory) -> JobHandle:
        """Submit; where as many jobs are submitted as is allowed, when there is a place again."""
        is_full = False

        def try_to() -> JobHandle:
            nonlocal is_full
            if is_full:
                # It leaves nothing behind, which each try to submit does.
                self._cluster.check(self._request, afresh=True)
            try:
                return submit_once(self._claims, directory)
            except SubmitLimitError:
                is_full = True
                raise

        return self._calls.persist(try_to)

    def _tell_of_adoption(self, found: Found, handle: JobHandle) -> None:
        does = "Collecting" if found.is_over else "Reattaching to"
        self._step.log.info(
            f"{does} Slurm job {handle.job_id} on {self._cluster.host}, which this piece of work has already; "
            f"nothing is submitted. Its directory is {handle.directory.path}"
        )
        for what in differences(found.description, self._digests):
            self._step.log.warning(f"Slurm job {handle.job_id} was submitted when {what} was another")

    def _follow(self, handle: JobHandle, session: PayloadSession) -> Finished | None:
        """To the end of the job; None if it was not this one that ran the payload, so that it has to be looked for."""
        tell_in_tags(self._step, handle)
        follower = JobFollower(self._step, self._connection, handle, session, self._interruptions, self._teller)
        try:
            ended = follower.follow(
                max_queue_seconds=self._request.max_queue_seconds, cancel=lambda: self._withdraw(handle.directory)
            )
        finally:
            finish_tags(self._step)
        if ended is None or self._interruptions.is_terminated:
            how = f"ended as {ended.state}" if ended else "has not ended yet, as far as Slurm says"
            raise TerminatedError(f"Slurm job {handle.job_id} was cancelled, and {how}")
        # A run that was given up meanwhile has a retry, or may get one, which collects the result.
        self._interruptions.check(afresh=True)
        if ended.is_wordless and not self._ran_the_payload(handle):
            return None
        launch = self._work.key.first_attempt(handle.directory.base)
        return Finished(launch, handle, self._request, ended, session, follower.gave_up_waiting, self._earlier)

    def _collect(self, finished: Finished) -> Finished:
        """Take the outputs of a job that succeeded; nothing of it is removed before."""
        staging, key, directory = self._spec.staging, self._work.key, finished.handle.directory
        if not finished.ended.is_success or not staging.outputs.patterns:
            return finished
        collector = Collector(
            self._cluster, staging, work=directory.work, job_id=finished.handle.job_id, tell=self._step.log.info
        )
        outputs_dir = outputs_directory(self._step) if staging.outputs.needs_default else Path()
        result = f"{data_place(self._step)}/{result_name(key.origin_run_id, key.call)}"
        collected = self._calls.persist(lambda: collector.collect(outputs_dir=outputs_dir, result=result))
        return replace(finished, collected=collected)

    def _ran_the_payload(self, handle: JobHandle) -> bool:
        """Whether a job that completed without a word is the one that took the gate.

        Raises:
            ResultLostError: The directory is not there any more.
        """
        seen = self._calls.persist(lambda: look(self._cluster, [handle.directory]))
        owner = seen.listing.gate_owner(handle.directory, handle.generation)
        if not owner:
            raise ResultLostError(
                f"The run directory {handle.directory.path} was removed before it was read",
                hint="Another process may have collected the result; nothing is submitted again.",
                host=self._cluster.host,
                job_id=handle.job_id,
            )
        return owner == handle.job_id

    def _cancel(self) -> str:
        """Cancel whatever this piece of work has, wait for Slurm a while, and say what came of it."""
        until = time.monotonic() + CANCEL_SECONDS
        job_ids = self._withdraw(self._directory)
        if not job_ids:
            return "no job was submitted"
        names = ", ".join(job_ids)
        while time.monotonic() < until:
            entries = self._calls.bounded(lambda: self._cluster.queue(job_ids), "squeue") or {}
            if all(entry.state.is_terminal for entry in entries.values()):
                return f"Slurm job {names} was cancelled"
            time.sleep(0.5)
        return f"Slurm job {names} was cancelled, and has not ended yet, as far as Slurm says"

    def _withdraw(self, directory: RunDirectory | None) -> tuple[str, ...]:
        """Take back every try to submit, and cancel the jobs there may be."""
        self._step.log.info("The run was terminated: cancelling its Slurm job")
        return self._calls.withdraw([directory] if directory else [])


def _of_the_attempt(directory: RunDirectory) -> dict[str, str]:
    """What a payload is told of its attempt: where its checkpoints lie, the same for all, and which one this is."""
    return {
        "DAGSTER_SLURM_CHECKPOINT_DIR": directory.checkpoint,
        "DAGSTER_SLURM_ATTEMPT": str(directory.attempt),
    }
