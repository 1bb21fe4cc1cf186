"""The carriers of a call in a session: steps of an allocation that other calls, runs and processes may share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.look import look
from dagster_slurm.cluster.records import REVOKED
from dagster_slurm.environments import Activation
from dagster_slurm.errors import AttemptClosedError, DagsterSlurmError, SessionEndedError, SlurmCommandError
from dagster_slurm.job.batch_script import batch_script
from dagster_slurm.job.cancelling import Order
from dagster_slurm.job.submission import Reattachment, submit_once
from dagster_slurm.launchers import KeptCluster, Payload, Place, direct_plan, launch_in_job
from dagster_slurm.process_identity import ProcessIdentity
from dagster_slurm.run_directory import JobHandle, RunDirectory
from dagster_slurm.session import SessionSpec, Share, refuse_other_shape, session_file
from dagster_slurm.session.kept import cluster_word, keeping_script, refuse_cluster
from dagster_slurm.session.leases import LEASES, Lease, say
from dagster_slurm.session.relay import successor_request, to_be_used
from dagster_slurm.slurm import commands
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.request import AUTO, JobRequest
from dagster_slurm.transport import TreeEntry
from dagster_slurm.transport.shell import quote, shell_file
from dagster_slurm.work.carriers import Carrier, Tries
from dagster_slurm.work.on_cluster import ClusterCarriers

_NO_ENVIRONMENT = Activation((), "python3", "the login's environment")


@dataclass
class _Held:
    """What this process knows of a session; the lock is held while an allocation is looked for.

    Args:
        allocation: That which takes steps, as far as is known.
        shape: That of it.
        past: Up to which number its allocations take no more.
        relays: Held while a successor is queued.
        followed: Up to which number they have a successor.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    allocation: JobHandle | None = None
    shape: str = ""
    past: int = -1
    relays: threading.Lock = field(default_factory=threading.Lock)
    followed: int = -1

    def leave(self, allocation: RunDirectory) -> None:
        """It takes no more steps."""
        self.past = max(self.past, allocation.attempt)
        if self.allocation is not None and self.allocation.directory.attempt <= self.past:
            self.allocation = None


_held: dict[tuple[int, str], _Held] = {}
_held_lock = threading.Lock()


class SessionCarriers(ClusterCarriers):
    """As `ClusterCarriers`, with a step of a session's allocation for each unit.

    Args:
        session: The session.
        arguments: As for `ClusterCarriers`.
    """

    def __init__(self, *arguments: Any, session: SessionSpec, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._session = session
        self._place = session.first_allocation(self._cluster.base(), self._work.key.origin_run_id)
        with _held_lock:
            self._held = _held.setdefault((id(self._cluster), self._place.launch), _Held())
        self._allocation: JobHandle | None = None

    # -- submitting

    def room(self, request: JobRequest, units: int, *, may_wait: bool) -> int:
        """As `Carriers.room`: the dispatcher has room for all of them. Slurm is asked about the allocation alone."""
        del may_wait
        share = Share.of(request)
        self._session.refuse_step(share)
        if cluster := self._cluster_for(request, _NO_ENVIRONMENT):
            refuse_cluster(self._session, share, cluster)
        if self._held.allocation is None:
            self._calls.persist(lambda: self._cluster.check(self._of_allocation))
        return units

    def submit(self, number: int, tries: Tries, request: JobRequest) -> Carrier:
        """As `Carriers.submit`; where an allocation takes no more steps, in another attempt in the next one."""
        while True:
            self._allocation = allocation = self._allocate()
            self._more = self._asked(len(tries), request, allocation)
            try:
                carrier = super().submit(number, tries, request)
            except SessionEndedError:
                self._held.leave(allocation.directory)
                self._calls.persist(partial(self._close_unsubmitted, number))
                number += 1
                continue
            self._keep_lease(allocation)
            return carrier

    def _close_unsubmitted(self, number: int) -> None:
        claims, directory = Claims(self._cluster), self.launch.of_attempt(number)
        claims.close(directory, generation=claims.newest(directory))

    def _submitted(self, directory: RunDirectory, request: JobRequest, files: Sequence[TreeEntry]) -> JobHandle:
        """A step's with its allocation: an attempt that another process has made is of the one that this knew."""
        handle, allocation = super()._submitted(directory, request, files), self._allocation
        if directory.launch == self._place.launch:
            return handle
        if allocation is not None and JobId.parse(handle.job_id).in_queue == allocation.job_id:
            return replace(handle, session=allocation.directory)
        attempts = self._calls.persist(lambda: look(self._cluster, [handle.directory])).listing.attempts(
            handle.directory
        )
        found = attempts.get(handle.directory.attempt)
        return replace(handle, session=found.session if found else None)

    def _asked(self, units: int, request: JobRequest, allocation: JobHandle) -> Sequence[TreeEntry]:
        """What an attempt asks its allocation for. Its script has an option for an array, which only sbatch reads."""
        tasks, share = self._spec.tasks, Share.of(request)
        line = share.line(units, tasks.max_parallel or 0) if tasks else share.line()
        more = []
        if cluster := self._cluster_for(request, self._provided()):
            script = keeping_script(cluster)
            line = f"{line} {cluster_word(cluster, script)}"
            more = [TreeEntry("cluster.sh", script.encode())]
        return [TreeEntry("session", session_file(allocation.directory, allocation.job_id, line)), *more]

    def _cluster_for(self, request: JobRequest, activation: Activation) -> KeptCluster | None:
        """What the session is to keep for a step."""
        return self._spec.plan(self._spec.payload, Place.of_job(activation, request)).cluster

    # -- the allocation

    @cached_property
    def _of_allocation(self) -> JobRequest:
        """What Slurm is asked for. The shape is of what was said, so that those who share it need not choose alike."""
        asked = self._session.request
        return self.placed(asked) if asked.partition == AUTO else asked

    def _allocate(self) -> JobHandle:
        """The allocation that takes steps; of those of this process that need one, one looks for it."""
        with self._held.lock:
            if self._held.allocation is None:
                self._held.allocation = self._find_or_submit()
                self._held.shape = self._session.shape
            refuse_other_shape(self._session, self._held.shape)
            return self._held.allocation

    def _find_or_submit(self) -> JobHandle:
        while True:
            known = self._calls.persist(
                lambda: Reattachment(self._cluster).find(self._place, is_same=lambda description: True)
            )
            used = to_be_used(known.open, self._held.past)
            if used is not None:
                refuse_other_shape(self._session, used.description.session)
                self._step.log.info(f"Using {self._session.title}, Slurm job {used.handle.job_id} on {self.host}")
                if self._held.past >= 0:
                    self._let_begin(used.handle)
                return used.handle
            if known.begun is not None:
                refuse_other_shape(self._session, known.begun.session)
            directory = self._place.of_attempt(max(known.following, self._held.past + 1))
            try:
                return self._submit_allocation(directory)
            except AttemptClosedError:
                continue

    def _submit_allocation(self, directory: RunDirectory) -> JobHandle:
        self._interruptions.check(afresh=True)
        self._touch_allocation(directory)
        request = self._of_allocation
        handle = self._submitted(directory, request, self._files_of(directory, request))
        self._tell_of_allocation(handle, "")
        return handle

    def _touch_allocation(self, directory: RunDirectory) -> None:
        if not self._session.name:
            # Ended with the run's termination; one with a name is others' as well.
            self._touched[directory.path] = directory
            self._interruptions.has_jobs = True

    def _tell_of_allocation(self, handle: JobHandle, more: str) -> None:
        self._step.tell(
            f"Submitted Slurm job {handle.job_id} on {self.host} as the allocation of {self._session.title}{more}",
            {"asked": self._session.shape, "directory": handle.directory.path},
            url=self._connection.job_url.replace("{job_id}", handle.job_id),
        )

    def _files_of(self, directory: RunDirectory, request: JobRequest) -> Sequence[TreeEntry]:
        run = self._step.run
        payload = Payload("dispatch.sh", "bash", None)
        launch = launch_in_job(direct_plan, payload, _NO_ENVIRONMENT, request, None)
        description = Description(
            origin_run_id=self._work.key.origin_run_id,
            run_id=run.run_id if run else "",
            job=run.job_name if run else "",
            step_key=self._session.title,
            call="session",
            process=ProcessIdentity.of_this_process(),
            session=self._session.shape,
        )
        return directory.files(
            script=batch_script(request, directory=directory, launch=launch),
            env="",
            context=b"{}",
            work=[
                TreeEntry("dispatch.sh", self._dispatcher(directory).encode()),
                TreeEntry("mail.sh", shell_file("dagster_slurm.session", "mail.sh").encode()),
                TreeEntry("keep.sh", _launchers_files("pause.sh", "keep.sh").encode()),
                TreeEntry("gpus.sh", shell_file("dagster_slurm.session", "gpus.sh").encode(), 0o700),
                TreeEntry("bin/srun", shell_file("dagster_slurm.job", "part_srun.sh").encode(), 0o700),
            ],
            description=description.to_json(),
            more=[TreeEntry("mail/requests", b"")],
        )

    def _dispatcher(self, directory: RunDirectory) -> str:
        request = self._session.request
        values = {
            "allocation": directory.path,
            "most": self._session.max_concurrent_jobs,
            "idle_seconds": self._session.idle_timeout_seconds,
            "limit_seconds": request.time_limit_seconds or 0,
            "relay_seconds": self._session.relay_seconds,
            "gpus_per_node": request.gpus_per_node,
        }
        head = (f"{name}={quote(str(value))}" for name, value in values.items())
        files = (shell_file("dagster_slurm.session", name) for name in ("clusters.sh", "dispatch.sh"))
        return "\n".join((*head, _launchers_files("pause.sh"), *files))

    def _keep_lease(self, allocation: JobHandle) -> None:
        run = self._step.run
        if run is not None:
            # What is called outside of a run, as in a notebook, may stay open for days: its requests alone count.
            LEASES.keep(self._lease(allocation, run.run_id))

    def _lease(self, allocation: JobHandle, run_id: str) -> Lease:
        session = self._session
        return Lease(
            run_id,
            self._cluster.transport,
            allocation.directory,
            session.idle_timeout_seconds,
            not session.name,
            session.relay_seconds,
            partial(self._queue_successor, allocation, run_id) if session.relay_seconds else None,
        )

    # -- the allocation that follows

    def _queue_successor(self, allocation: JobHandle, run_id: str) -> Lease | None:
        """As `Lease.queue_successor`, on a thread of its own; what cannot be done now is asked for again."""
        held = self._held
        if not held.relays.acquire(blocking=False):
            return None
        try:
            if allocation.directory.attempt <= held.followed:
                return None
            successor = self._successor_of(allocation)
            held.followed = allocation.directory.attempt
            return self._lease(successor, run_id)
        except DagsterSlurmError as error:
            said = str(error).partition("\n")[0]
            self._step.log.warning(f"No allocation is queued yet to follow Slurm job {allocation.job_id}: {said}")
            return None
        finally:
            held.relays.release()

    def _successor_of(self, allocation: JobHandle) -> JobHandle:
        number = allocation.directory.attempt
        known = Reattachment(self._cluster).find(self._place, is_same=lambda description: True)
        found = to_be_used(known.open, number)
        successor = found.handle if found else self._submit_successor(max(known.following, number + 1), allocation)
        # One that ends since nobody needs it gives this one back; who has submitted it may have died before this.
        say(self._cluster.transport, allocation.directory, "next", successor.job_id)
        return successor

    def _submit_successor(self, number: int, allocation: JobHandle) -> JobHandle:
        directory = self._place.of_attempt(number)
        self._touch_allocation(directory)
        asked = self._session.request
        if asked.partition == AUTO:
            from dagster_slurm.cluster.placement import placed  # noqa: PLC0415 - most requests name a partition, or none

            # Not as `placed` of this: what persists acts on interruptions, which are for the step's own thread.
            asked, _ = placed(self._cluster, asked)
        files = self._files_of(directory, successor_request(asked, allocation.job_id))
        handle = submit_once(Claims(self._cluster), directory, files, slow=self._step.log.warning)
        self._tell_of_allocation(handle, f", to follow job {allocation.job_id}, whose walltime ends")
        return handle

    def _let_begin(self, allocation: JobHandle) -> None:
        """What was to begin when another one has ended begins now, since a step waits for it."""
        argv = commands.scontrol_forget_dependency(allocation.job_id)

        def update() -> None:
            self._cluster.refuse("scontrol update", self._cluster.transport.command(argv))

        try:
            self._calls.persist(update)
        except SlurmCommandError as error:
            # It does so for one that has begun.
            self._step.log.debug(f"Slurm job {allocation.job_id} waits for no other one: {error}")

    # -- following and ending

    def take_back(self, carrier: Carrier) -> bool:
        """As `Carriers.take_back`: at its gate. Elements have one in common; their files tell that none has begun."""
        session = carrier.handle.session
        if session is not None:
            self._held.leave(session)
        if carrier.is_array:
            return True
        claim = carrier.directory.claim(carrier.handle.generation)
        owner = self._calls.persist(lambda: self._cluster.script("revoke", (claim,)))
        if owner.text.strip() != REVOKED:
            return False
        claims = Claims(self._cluster)
        self._calls.persist(lambda: claims.close(carrier.directory, generation=carrier.handle.generation))
        return True

    def cancel_waiting(self, carrier: Carrier) -> None:
        """As `Carriers.cancel_waiting`: what waits for its allocation, and what waits in it."""
        allocation = JobId.parse(carrier.handle.job_id).in_queue
        self._calls.persist(lambda: self._cluster.cancel([allocation], only_pending=True))
        with suppress(DagsterSlurmError):
            self._canceller.carry_out(Order((), (carrier.handle,)))


def _launchers_files(*names: str) -> str:
    return "\n".join(shell_file("dagster_slurm.launchers", name) for name in names)
