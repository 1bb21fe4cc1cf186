"""The carriers of a call on a cluster: jobs of one unit, and job arrays. Each is an attempt of the call's launch."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.look import look
from dagster_slurm.cluster.submissions import are_small
from dagster_slurm.environments import Activation, Site, add_to
from dagster_slurm.errors import DagsterSlurmError, ResultLostError, SubmitLimitError, TransportError
from dagster_slurm.job.batch_script import env_file
from dagster_slurm.job.cancelling import Canceller, Order, Withdrawal
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import Listener
from dagster_slurm.job.retrying import Outcome, outcomes_to_json
from dagster_slurm.job.submission import Known, Open, Others, Reattachment, submit_once
from dagster_slurm.pipes.interruptions import ClusterCalls, Interruptions
from dagster_slurm.pipes.launch_key import (
    PieceOfWork,
    describe,
    differences,
    digests,
    is_abandoned,
    may_have_begun,
)
from dagster_slurm.pipes.partition_results import data_place, needs_of, outputs_directory, result_name
from dagster_slurm.pipes.run_notes import tell_in_tags
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.unfinished import Unfinished, leave_to_reconcile
from dagster_slurm.run_directory import ONE, JobHandle, RunDirectory, task_files
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging.collect import Collected, Collector
from dagster_slurm.staging.store import InputStore
from dagster_slurm.text import counted
from dagster_slurm.transport import TreeEntry
from dagster_slurm.transport.shell import quote
from dagster_slurm.work.carriers import Carrier, Carriers, Taken, Tries, unit_variables
from dagster_slurm.work.spec import WorkSpec

_SLURM_LOG_BYTES = 1 << 16
_told_ways: set[tuple[str, bool]] = set()


class ClusterCarriers(Carriers):
    """As `Carriers`, on a cluster.

    Args:
        step: The step.
        connection: The cluster.
        work: Which piece of work the call is.
        spec: What is to be run for each unit.
        interruptions: What may end a call before it has answered.
        adopts_abandoned: Whether live jobs of an abandoned materialisation of the same asset are adopted.
        trims: Whether of a failed carrier only script, status and the end of stderr are kept.
    """

    KIND = Carrier
    """What it submits."""

    def __init__(
        self,
        step: Step,
        connection: ClusterConnection,
        work: PieceOfWork,
        spec: WorkSpec,
        interruptions: Interruptions,
        *,
        adopts_abandoned: bool = False,
        trims: bool = True,
    ) -> None:
        self._step = step
        self._connection = connection
        self._cluster = connection.cluster
        self._work = work
        self._spec = spec
        self._interruptions = interruptions
        self._adopts_abandoned = adopts_abandoned
        self._trims = trims
        self._is_array = spec.tasks is not None
        self._asks_most = spec
        self._calls = ClusterCalls(step, connection.cluster, interruptions, self._may_be_submitted)
        self._contexts = step.pipes.contexts(spec.extras)
        self._activation: Activation | None = None
        self._touched: dict[str, RunDirectory] = {}
        self._coming: tuple[RunDirectory, ...] = ()
        # What another kind of carrier has in an attempt besides.
        self._more: Sequence[TreeEntry] = ()
        self._watched: dict[str, JobHandle] = {}
        self._told_places: set[str] = set()

    @property
    def host(self) -> str:
        """The login node."""
        return self._cluster.host

    @cached_property
    def launch(self) -> RunDirectory:
        """The directory of the call's launch."""
        return self._work.key.first_attempt(self._cluster.base())

    def _may_be_submitted(self) -> bool:
        """Whether any process may have submitted this piece of work, as far as can be told without the cluster."""
        return bool(self._touched) or self._adopts_abandoned or may_have_begun(self._step, self._work)

    @cached_property
    def _digests(self) -> Mapping[str, str]:
        """What tells this deploy from another; asked for where there is something to compare, or to be submitted."""
        return digests(self._spec)

    # -- what there is

    def find(self, wanted: Callable[[Sequence[str]], bool]) -> Taken:
        """As `Carriers.find`."""

        def is_same(description: Description) -> bool:
            return wanted(description.elements or (ONE,)) and not differences(description, self._digests)

        known = self._calls.persist(lambda: self._known(is_same))
        if known.was_elsewhere:
            self._step.log.warning("An earlier run of the same work has a job that goes on; this run adopts it")
        begun = (known.begun.elements or (ONE,)) if known.begun else ()
        return Taken(tuple(map(self._found, known.open)), known.outcomes, known.following, begun)

    def _known(self, is_same: Callable[[Description], bool]) -> Known:
        base = self._cluster.base()
        others = Others(
            [key.first_attempt(base) for key in self._work.others],
            self._work.asset_digest if self._adopts_abandoned else "",
            is_abandoned=lambda description: is_abandoned(description, self._step.instance),
        )
        run, origin = self._step.run, self._work.key.origin_run_id
        began_before = run is not None and (self._step.retry_number > 0 or origin != run.run_id)
        return Reattachment(self._cluster).find(self.launch, is_same=is_same, others=others, began_before=began_before)

    def _found(self, opened: Open) -> Carrier:
        self._touched[opened.handle.directory.path] = opened.handle.directory
        return Carrier(
            opened.number,
            opened.handle,
            opened.units,
            opened.left,
            self._spec.request,
            is_array=bool(opened.description.elements),
            over=opened.over,
            changed=tuple(differences(opened.description, self._digests)) if opened.description.digests else (),
        )

    # -- submitting

    def room(self, request: JobRequest, units: int, *, may_wait: bool) -> int:
        """As `Carriers.room`."""
        if not self._is_array:
            self._calls.persist(lambda: self._cluster.check(request))
            return 1
        max_parallel = self._spec.tasks.max_parallel if self._spec.tasks else None

        def ask() -> int:
            try:
                return self._cluster.room_for_array(request, units, max_parallel)
            except SubmitLimitError:
                if may_wait:
                    raise
                return 0

        return self._calls.persist(ask)

    def placed(self, request: JobRequest) -> JobRequest:
        """As `Carriers.placed`."""
        from dagster_slurm.cluster.placement import placed  # noqa: PLC0415 - most requests name a partition, or none

        found, choice = self._calls.persist(lambda: placed(self._cluster, request))
        said = f"The partition {choice.partition} of {self.host} is chosen for the job: {choice.reason}"
        if said not in self._told_places:
            self._told_places.add(said)
            self._step.log.info(said)
        return found

    def submit(self, number: int, tries: Tries, request: JobRequest) -> Carrier:
        """As `Carriers.submit`."""
        activation = self._provided()
        directory = self.launch.of_attempt(number)
        self._touched[directory.path] = directory
        files = self._calls.persist(lambda: self._prepared(directory, tries, request, activation))
        self._interruptions.pause(self._connection.turns.take())
        # A run that was terminated, or taken over, by now gets no job.
        self._interruptions.check(afresh=True)
        self._interruptions.has_jobs = True
        self._coming = (directory,)
        handle = self._submitted(directory, request, files)
        self._coming = ()
        units = self._calls.persist(lambda: self._units_in(handle)) if self._is_array else (ONE,)
        carrier = self.KIND(number, handle, units, units, request, is_array=self._is_array)
        self._step.tell(
            f"Submitted {carrier.title} {self._described(carrier)} on {self.host} in {activation.description}",
            _rows(carrier),
            url=self._connection.job_url.replace("{job_id}", handle.job_id),
            begins=carrier.wait,
        )
        return carrier

    def _described(self, carrier: Carrier) -> str:
        if not self._is_array:
            return f"({carrier.directory.job_name(carrier.handle.generation)})"
        most = self._spec.tasks.max_parallel if self._spec.tasks else None
        return f"of {counted(len(carrier.units), 'partition')}{f', at most {most} at once' if most else ''}"

    def _provided(self) -> Activation:
        if self._activation is None:
            site = Site(self._cluster, self._step.log.info, self._spec.force_env_push)
            self._activation = self._calls.persist(lambda: self._spec.environment.provide(site))
        return self._activation

    def _prepared(
        self, directory: RunDirectory, tries: Tries, request: JobRequest, activation: Activation
    ) -> Sequence[TreeEntry]:
        """What goes with the submission; what is large, or needed before, is put there. May be repeated at any time."""
        inputs = InputStore(self._cluster, self._spec.staging.inputs, self._step.log.info)
        inputs.upload()
        array = self._spec.tasks.option_of(len(tries)) if self._spec.tasks else None
        script = self._spec.at(self._cluster.absolute).batch_script(directory, activation, request, array=array)
        description = describe(
            self._step,
            self._work,
            self._digests,
            environment_path=activation.path,
            elements=tries if self._is_array else None,
        )
        tasks = list(self._tasks(directory, tries)) if self._is_array else []
        own = {} if self._is_array else unit_variables(directory, ONE, directory.attempt, self._step.partition_keys)
        # Into a file, Python writes in blocks; a line is to be seen when it is printed.
        variables = env_file({"PYTHONUNBUFFERED": "1", **(self._spec.extra_env or {}), **own})
        files = directory.files(
            script=script,
            env=variables,
            context=json.dumps(self._contexts.of_step).encode(),
            work=self._spec.files,
            tasks=tasks,
            description=description.to_json(),
            asset_digest=self._work.asset_digest,
            more=self._more,
        )
        if are_small(files) and not self._spec.staging.inputs.names:
            return files
        self._cluster.transport.put_tree(
            files, directory.path, progress=lambda report: self._step.log.info(str(report))
        )
        inputs.place(directory.work)
        return ()

    def _tasks(self, directory: RunDirectory, tries: Tries) -> Iterator[TreeEntry]:
        shared = [entry.name for entry in self._spec.files]
        for element, (unit, earlier) in enumerate(tries.items()):
            env = env_file(unit_variables(directory.of_element(element), unit, len(earlier)))
            yield from task_files(element, env=env, context=json.dumps(self._contexts.of(unit)).encode())
            if self._spec.is_linked:
                work = f"elements/{element}/work/"
                yield TreeEntry(work)
                yield from (TreeEntry(f"{work}{name}", link=f"{directory.work}/{name}") for name in shared)

    def _submitted(self, directory: RunDirectory, request: JobRequest, files: Sequence[TreeEntry]) -> JobHandle:
        """Submit; where as many jobs are submitted as is allowed, when there is a place again."""
        is_full = is_slow = False

        def slow(said: str) -> None:
            nonlocal is_slow
            if not is_slow:
                self._step.log.warning(said)
            is_slow = True

        def try_to() -> JobHandle:
            nonlocal is_full
            if is_full:
                # It leaves nothing behind, which each try to submit does.
                self._cluster.check_again(request)
            try:
                handle = submit_once(Claims(self._cluster), directory, files, slow=slow)
            except SubmitLimitError as error:
                is_full = True
                self._cluster.note_refusal(error)
                raise
            if is_full:
                self._cluster.note_place()
            return handle

        return self._calls.persist(try_to)

    def _units_in(self, handle: JobHandle) -> tuple[str, ...]:
        """Whoever has prepared an array has said which partitions its tasks have.

        Raises:
            ResultLostError: Its directory does not say, or not any more.
        """
        attempt = look(self._cluster, [handle.directory]).listing.attempts(handle.directory)
        found = attempt.get(handle.directory.attempt)
        if found is None or not found.description.elements:
            raise ResultLostError(
                f"{handle.directory.path} does not say which partitions Slurm array {handle.job_id} has",
                host=self.host,
                job_id=handle.job_id,
            )
        return found.description.elements

    # -- following

    def watch(self, jobs: Sequence[tuple[Carrier, JobHandle, Listener]]) -> None:
        """As `Carriers.watch`; the run's tags name the jobs."""
        for carrier in {id(carrier): carrier for carrier, _, _ in jobs}.values():
            self._watched[carrier.directory.path] = carrier.handle
            tell_in_tags(self._step, carrier.handle)
            self._tell_of_the_way(carrier)
        needs = needs_of(self._asks_most.metadata, self._asks_most.request)
        self._connection.watcher.watch_all([(handle, listener) for _, handle, listener in jobs], needs)

    def _tell_of_the_way(self, carrier: Carrier) -> None:
        """How the logs come here; for each run once, since a line in its log costs more than the reading."""
        run = self._step.run
        told = (run.run_id if run else "", self._connection.is_shared)
        if run is None or told not in _told_ways:
            _told_ways.add(told)
            self._step.log.debug(self._connection.streaming(f"{carrier.directory.path}/log"))

    def forget(self, listeners: Sequence[Listener]) -> None:
        """As `Carriers.forget`."""
        self._connection.watcher.forget(*listeners)

    def owner(self, carrier: Carrier) -> str:
        """As `Carriers.owner`: the gate says it."""
        directory = carrier.directory
        seen = self._calls.persist(lambda: look(self._cluster, [directory]))
        return seen.listing.gate_owner(directory, carrier.handle.generation)

    def said(self, handle: JobHandle) -> str:
        """As `Carriers.said`."""
        try:
            said = self._cluster.transport.read_from(handle.directory.slurm_log, 0, _SLURM_LOG_BYTES)
        except TransportError as error:
            return f"(not readable now: {error.message})"
        return said.decode("utf-8", "replace")

    def missing(self, module: str) -> str:
        """As `Carriers.missing`."""
        return add_to(self._spec.environment, module, self._activation)

    def collect(self, unit: str, handle: JobHandle) -> Collected:
        """As `Carriers.collect`."""
        staging, key = self._spec.staging, self._work.key
        if not staging.outputs.patterns:
            return Collected()
        collector = Collector(
            self._cluster, staging, work=handle.directory.work, job_id=handle.job_id, tell=self._step.log.info
        )
        outputs_dir = outputs_directory(self._step, unit, self._spec.name) if staging.outputs.needs_default else Path()
        result = f"{data_place(self._step, unit)}/{result_name(key.origin_run_id, key.call)}"
        return self._calls.persist(lambda: collector.collect(outputs_dir=outputs_dir, result=result))

    # -- ending

    def close(self, carrier: Carrier, failed: Mapping[int | None, Outcome]) -> None:
        """As `Carriers.close`. A job that has succeeded stays open, until Dagster has recorded the step's success."""
        self._watched.pop(carrier.directory.path, None)
        if not (failed or carrier.is_array):
            return
        handle = carrier.handle
        outcome = outcomes_to_json(failed)
        Claims(self._cluster).close(handle.directory, generation=handle.generation, outcome=outcome)
        if failed and self._trims:
            handle.directory.trim(self._cluster.transport)

    def cancel_waiting(self, carrier: Carrier) -> None:
        """As `Carriers.cancel_waiting`; Slurm leaves alone what has just started."""
        self._calls.persist(lambda: self._cluster.cancel([carrier.handle.job_id], only_pending=True))

    def withdraw(self) -> Withdrawal:
        """As `Carriers.withdraw`."""
        withdrawal = self._canceller.carry_out(self._order())
        for found in withdrawal.strangers:
            self._step.log.error(
                f"Slurm job {found.job_id} on {self.host} is not cancelled: it has the name {found.name!r} in "
                f"{found.work_directory!r}, and is not this piece of work"
            )
        return withdrawal

    @cached_property
    def _canceller(self) -> Canceller:
        return Canceller(self._cluster, self._calls.persist_a_while)

    def _order(self) -> Order:
        return Order(tuple(self._touched.values()), tuple(self._watched.values()), self._coming)

    def left_of(self, withdrawal: Withdrawal) -> str:
        """As `Carriers.left_of`."""
        return self._canceller.left_of(withdrawal)

    def leave(self, withdrawal: Withdrawal, left: str) -> None:
        """As `Carriers.leave`: `reconcile` goes on with it."""
        order = replace(self._order(), jobs=withdrawal.jobs)
        leave_to_reconcile(self._step, Unfinished(self.host, self._cluster.base(), order), left)

    def stay_fresh(self) -> None:
        """As `Carriers.stay_fresh`, beside the following."""
        threading.Thread(target=self._touch, name="dagster-slurm-touch", daemon=True).start()

    def _touch(self) -> None:
        with suppress(DagsterSlurmError):
            # The next hour is early enough.
            self._cluster.touch(self.launch)


def _rows(carrier: Carrier) -> Mapping[str, str]:
    """What a reader of the run's log may want to copy, for a terminal on the login node."""
    job_id, options = carrier.handle.job_id, carrier.request.sbatch_options()
    rows = {
        "asked": " ".join(f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()),
        "directory": carrier.directory.path,
        "state": f"squeue --jobs={job_id}; scontrol show job {job_id}",
    }
    return rows if carrier.is_array else {**rows, "output": f"tail -F {quote(carrier.directory.path)}/log/stdout.*"}
