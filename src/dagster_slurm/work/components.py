"""The components of a heterogeneous job: each an asset of the step, with its own payload, launcher and environment.

They are the units of one call, and one attempt of its launch executes those that are left; see docs/adr/0026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dagster import AssetKey

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.submissions import are_small
from dagster_slurm.environments import Activation, Site, add_to
from dagster_slurm.errors import ResultLostError
from dagster_slurm.job.batch_script import env_file
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.het_script import OnFailure, het_scripts, leader_hook
from dagster_slurm.job.retrying import next_request
from dagster_slurm.job.submission import Open
from dagster_slurm.launchers import LaunchPlan, Payload, Place, Planner, launch_in_job
from dagster_slurm.pipes.interruptions import Interruptions
from dagster_slurm.pipes.launch_key import PieceOfWork, describe, digests
from dagster_slurm.pipes.partition_results import data_place, needs_of, outputs_directory, result_name
from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import JobHandle, RunDirectory, short_digest, task_files
from dagster_slurm.slurm.hetjob import parse_partitions, refuse_too_many, render_hetjob
from dagster_slurm.slurm.request import AUTO, JobRequest
from dagster_slurm.staging.collect import Collected, Collector
from dagster_slurm.staging.store import InputStore
from dagster_slurm.text import counted
from dagster_slurm.transport import TreeEntry
from dagster_slurm.work.carriers import Carrier, Tries, unit_variables
from dagster_slurm.work.on_cluster import ClusterCarriers
from dagster_slurm.work.spec import WorkSpec

_OF_SRUN = re.compile(r"srun: (?:error: \S+: task 0: (?:Exited with exit code|Terminated|Killed)|Terminating )")


@dataclass(frozen=True)
class Component:
    """One component.

    Args:
        key: The asset that its payload makes.
        step: The step, as if this was its only asset.
        spec: What is to be run for it.
    """

    key: AssetKey
    step: Step
    spec: WorkSpec

    def context(self) -> dict[str, Any]:
        """The Pipes context of its payload."""
        found = self.step.pipes.contexts(self.spec.extras).of_step
        name = self.key.to_escaped_user_string()
        by_asset = ("code_version_by_asset_key", "provenance_by_asset_key")
        own = {field: {name: (found.get(field) or {}).get(name)} for field in by_asset}
        return {**found, "asset_keys": [name], **own}

    def variables(self, directory: RunDirectory, attempt: int) -> dict[str, str]:
        """The variables of its payload.

        Args:
            directory: Where it lies.
            attempt: Which attempt at it this is, from 0 on.
        """
        unit = self.key.to_user_string()
        told = unit_variables(directory, "", attempt, self.step.partition_keys)
        checkpoint = f"{directory.checkpoint}/{short_digest(unit)}"
        # Into a file, Python writes in blocks; a line is to be seen when it is printed.
        return {
            "PYTHONUNBUFFERED": "1",
            **(self.spec.extra_env or {}),
            **told,
            "DAGSTER_SLURM_ASSET_KEY": unit,
            "DAGSTER_SLURM_CHECKPOINT_DIR": checkpoint,
        }


Components = Mapping[str, Component]
"""All of a call, by the asset's key as people write it, in their order."""


@dataclass(frozen=True)
class HetCarrier(Carrier):
    """A heterogeneous job.

    Args:
        requests: What was asked of Slurm for each unit.
    """

    requests: Mapping[str, JobRequest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "handle", replace(self.handle, components=len(self.units)))

    @property
    def title(self) -> str:
        """As `Carrier.title`."""
        return f"Slurm {'het job' if len(self.units) > 1 else 'job'} {self.handle.job_id}"

    @property
    def wait(self) -> str:
        """As `Carrier.wait`: its components begin together."""
        return self.title

    @property
    def is_one_job(self) -> bool:
        """As `Carrier.is_one_job`."""
        return True

    def request_of(self, unit: str) -> JobRequest:
        """As `Carrier.request_of`."""
        return self.requests.get(unit, self.request)


class HetCarriers(ClusterCarriers):
    """As `ClusterCarriers`, of components.

    Args:
        step: The step.
        connection: The cluster.
        work: Which piece of work the call is.
        components: All components of the call.
        interruptions: What may end a call before it has answered.
        on_failure: What becomes of the others when one fails.
        adopts_abandoned: As for `ClusterCarriers`.
        trims: As for `ClusterCarriers`.
    """

    KIND = HetCarrier

    def __init__(
        self,
        step: Step,
        connection: ClusterConnection,
        work: PieceOfWork,
        components: Components,
        interruptions: Interruptions,
        *,
        on_failure: OnFailure,
        adopts_abandoned: bool = False,
        trims: bool = True,
    ) -> None:
        first = next(iter(components.values())).spec
        super().__init__(step, connection, work, first, interruptions, adopts_abandoned=adopts_abandoned, trims=trims)
        self._components = components
        self._on_failure = on_failure
        self._is_array = True
        specs = [each.spec for each in components.values()]
        self._asks_most = next((each for each in specs if needs_of(each.metadata, each.request).everything), first)
        self._activations: dict[str, Activation] = {}
        self._placements: dict[tuple[str, int], JobRequest] = {}

    @cached_property
    def _digests(self) -> Mapping[str, str]:
        """Of all components of the call, whichever are left."""
        each = [digests(component.spec) for component in self._components.values()]
        names = dict.fromkeys(name for found in each for name in found)
        return {name: short_digest([found.get(name, "") for found in each]) for name in names}

    def _found(self, opened: Open) -> Carrier:
        if not opened.description.elements:
            raise ResultLostError(
                f"Slurm job {opened.handle.job_id} does this piece of work, and its run directory "
                f"{opened.handle.directory.path} does not say for which assets",
                hint="Nothing is submitted beside it. Wait for its end, or cancel it with scancel.",
                host=self.host,
                job_id=opened.handle.job_id,
            )
        return HetCarrier(**vars(super()._found(opened)))

    # -- submitting

    def room(self, request: JobRequest, units: int, *, may_wait: bool) -> int:
        """As `Carriers.room`; what Slurm says of them together, is asked when they are known."""
        return units

    def requests(self, tries: Tries) -> dict[str, JobRequest]:
        """What is asked for each unit, after the ends before."""
        specs = {unit: self._components[unit].spec for unit in tries}
        asked = {
            unit: next_request(spec.request, tries[unit], spec.rules) if tries[unit] else spec.request
            for unit, spec in specs.items()
        }
        return {
            unit: self._placed_once(unit, len(tries[unit]), request) if request.partition == AUTO else request
            for unit, request in asked.items()
        }

    def _placed_once(self, unit: str, attempt: int, request: JobRequest) -> JobRequest:
        """With its partition, which is the same wherever the attempt is spoken of."""
        if (unit, attempt) not in self._placements:
            self._placements[unit, attempt] = self.placed(request)
        return self._placements[unit, attempt]

    def submit(self, number: int, tries: Tries, request: JobRequest) -> Carrier:
        """As `Carriers.submit`."""
        requests = self.requests(tries)
        if len(requests) == 1:
            self._calls.persist(lambda: self._cluster.check(request))
        else:
            refuse_too_many(requests, *self._calls.persist(lambda: partitions_of(self._cluster)))
            script = render_hetjob(list(requests.values()), output_path="/dev/null", body="true")
            self._calls.persist(lambda: self._cluster.check(request, script))
        self._activations = {unit: self._provide(self._components[unit].spec) for unit in tries}
        carrier = super().submit(number, tries, request)
        return replace(carrier, requests={**requests})  # type: ignore[call-arg]

    def _provided(self) -> Activation:
        return next(iter(self._activations.values()))

    def _provide(self, spec: WorkSpec) -> Activation:
        site = Site(self._cluster, self._step.log.info, spec.force_env_push)
        return self._calls.persist(lambda: spec.environment.provide(site))

    def _described(self, carrier: Carrier) -> str:
        return f"of {counted(len(carrier.units), 'component')} ({', '.join(carrier.units)})"

    def _prepared(
        self, directory: RunDirectory, tries: Tries, request: JobRequest, activation: Activation
    ) -> Sequence[TreeEntry]:
        launches = [self._launch(unit, asked) for unit, asked in self.requests(tries).items()]
        script, beside = het_scripts(self.requests(tries), launches, directory=directory, on_failure=self._on_failure)
        described = describe(
            self._step,
            self._work,
            self._digests,
            environment_path=activation.path,
            elements=tries,
            is_hetjob=True,
        )
        files = directory.files(
            script=script,
            env="",
            context=b"{}",
            work=(),
            tasks=[*beside, *self._tasks(directory, tries)],
            description=described.to_json(),
            asset_digest=self._work.asset_digest,
        )
        stores = {
            element: InputStore(self._cluster, self._components[unit].spec.staging.inputs, self._step.log.info)
            for element, unit in enumerate(tries)
        }
        has_inputs = any(self._components[unit].spec.staging.inputs.names for unit in tries)
        if are_small(files) and not has_inputs:
            return files
        for store in stores.values():
            store.upload()
        self._cluster.transport.put_tree(
            files, directory.path, progress=lambda report: self._step.log.info(str(report))
        )
        for element, store in stores.items():
            store.place(directory.of_element(element).work)
        return ()

    def _launch(self, unit: str, request: JobRequest) -> str:
        spec = self._components[unit].spec.at(self._cluster.absolute)
        planner = in_component(spec.plan)
        return launch_in_job(planner, spec.payload, self._activations[unit], request, spec.staging.scratch)

    def _tasks(self, directory: RunDirectory, tries: Tries) -> Iterator[TreeEntry]:
        for element, (unit, earlier) in enumerate(tries.items()):
            component = self._components[unit]
            variables = component.variables(directory.of_element(element), len(earlier))
            context = json.dumps(component.context()).encode()
            yield from task_files(element, env=env_file(variables), context=context)
            for entry in component.spec.files:
                yield TreeEntry(f"elements/{element}/work/{entry.name}", entry.source, entry.mode)

    # -- following

    def said(self, handle: JobHandle) -> str:
        """As `Carriers.said`, without what srun says of an exit code that is known."""
        lines = super().said(handle).splitlines(keepends=True)
        return "".join(line for line in lines if not _OF_SRUN.match(line))

    def missing_of(self, unit: str, module: str) -> str:
        """As `Carriers.missing_of`."""
        return add_to(self._components[unit].spec.environment, module, self._activations.get(unit))

    def collect(self, unit: str, handle: JobHandle) -> Collected:
        """As `Carriers.collect`."""
        component, key = self._components[unit], self._work.key
        staging, step = component.spec.staging, component.step
        if not staging.outputs.patterns:
            return Collected()
        collector = Collector(
            self._cluster, staging, work=handle.directory.work, job_id=handle.job_id, tell=self._step.log.info
        )
        outputs_dir = outputs_directory(step, "", component.spec.name) if staging.outputs.needs_default else Path()
        result = f"{data_place(step)}/{result_name(key.origin_run_id, key.call)}"
        return self._calls.persist(lambda: collector.collect(outputs_dir=outputs_dir, result=result))


def partitions_of(cluster: SlurmCluster) -> tuple[Mapping[str, int], str]:
    """How many nodes each partition has that this user sees, and the name of the default one."""
    answer = cluster.transport.command(("sinfo", "--noheader", "--format=%P|%D"))
    cluster.refuse("sinfo", answer)
    return parse_partitions(answer.text)


def in_component(planner: Planner) -> Planner:
    """A launcher's plan, for a component."""

    def plan(payload: Payload, place: Place) -> LaunchPlan:
        made = planner(payload, place)
        return replace(made, hooks=(leader_hook(), *made.hooks))

    return plan
