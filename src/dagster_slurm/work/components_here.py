"""Components as processes of this machine, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dagster_slurm.job.batch_script import env_file
from dagster_slurm.job.cancelling import Withdrawal
from dagster_slurm.job.events import Listener
from dagster_slurm.job.het_script import OnFailure
from dagster_slurm.job.retrying import Outcome
from dagster_slurm.pipes.partition_results import outputs_directory, result_name, results_directory
from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import JobHandle, RunDirectory, short_digest
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging import on_this_machine
from dagster_slurm.staging.collect import Collected
from dagster_slurm.work.carriers import Carrier, Tries
from dagster_slurm.work.components import Components
from dagster_slurm.work.here import LocalCarriers, Process


class LocalComponents(LocalCarriers):
    """As `LocalCarriers`, of components: each has a process of its own, and all run at once.

    Args:
        step: The step.
        components: All components of the call.
        call: What tells the call from others of the step.
        python: The interpreter for Python payloads.
        keeps: Whether the directories are left for inspection.
        on_failure: What becomes of the others when one fails.
    """

    def __init__(
        self, step: Step, components: Components, call: str, *, python: str, keeps: bool, on_failure: OnFailure
    ) -> None:
        super().__init__(step, next(iter(components.values())).spec, call, python=python, keeps=keeps)
        self._components = components
        self._on_failure = on_failure
        self._processes: dict[int, Process] = {}

    def room(self, request: JobRequest, units: int, *, may_wait: bool) -> int:
        """As `Carriers.room`."""
        return 1

    def submit(self, number: int, tries: Tries, request: JobRequest) -> Carrier:
        """As `Carriers.submit`; it begins when it is watched."""
        unit, earlier = next(iter(tries.items()))
        component = self._components[unit]
        directory = RunDirectory(str(self._base), "here", short_digest(unit), len(earlier))
        lists = {f"DAGSTER_SLURM_HET_NODELIST_{each}": "localhost" for each in range(len(self._components))}
        self._make(
            directory,
            component.spec,
            context=json.dumps(component.context()),
            env=env_file({**lists, **component.variables(directory, len(earlier))}),
        )
        return Carrier(number, JobHandle(directory, ""), (unit,), (unit,), request)

    def watch(self, jobs: Sequence[tuple[Carrier, JobHandle, Listener]]) -> None:
        """As `Carriers.watch`: the process begins."""
        for carrier, handle, listener in jobs:
            spec = self._components[carrier.units[0]].spec
            self._processes[id(listener)] = self._start(spec, handle, listener)

    def forget(self, listeners: Sequence[Listener]) -> None:
        """As `Carriers.forget`: nobody else would follow them, so they end."""
        for each in [self._processes.pop(id(each), None) for each in listeners]:
            if each is not None:
                each.end()

    def close(self, carrier: Carrier, failed: Mapping[int | None, Outcome]) -> None:
        """As `Carriers.close`; one that has failed may take the others with it."""
        super().close(carrier, failed)
        if failed and self._on_failure == "cancel":
            self._on_failure = "wait"
            self._step.log.warning(f"{carrier.units[0]} has failed, and on_failure is 'cancel': the others are ended")
            self._end_all()

    def _end_all(self) -> None:
        for each in list(self._processes.values()):
            each.end()

    def collect(self, unit: str, handle: JobHandle) -> Collected:
        """As `Carriers.collect`."""
        component = self._components[unit]
        staging, step = component.spec.staging, component.step
        if not staging.outputs.patterns:
            return Collected()
        run_id = step.run.run_id if step.run else "direct"
        result = results_directory(step) / result_name(run_id, self._call)
        outputs_dir = outputs_directory(step, "", component.spec.name) if staging.outputs.needs_default else Path()
        work = Path(handle.directory.work)
        return on_this_machine.collect(staging, work, outputs_dir=outputs_dir, result=result, is_kept=self._keeps)

    def withdraw(self) -> Withdrawal:
        """As `Carriers.withdraw`."""
        self._end_all()
        return super().withdraw()

    def remove(self) -> None:
        """The call has ended: leave nothing behind."""
        self._end_all()
        super().remove()
