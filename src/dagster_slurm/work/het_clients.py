"""The ways to run the components of a heterogeneous job: as one on a cluster, and side by side on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from dagster import AssetKey

from dagster_slurm.clients import Failures, Follow, LocalPipesClient, SlurmPipesClient
from dagster_slurm.job.het_script import OnFailure
from dagster_slurm.pipes.component_results import (
    ComponentRecorder,
    SlurmHetInvocation,
    components_failure,
    recorded_assets,
)
from dagster_slurm.pipes.dagster_storage import kept_connections
from dagster_slurm.pipes.interruptions import SHARED, Interruptions
from dagster_slurm.pipes.launch_key import PieceOfWork, piece_of_work
from dagster_slurm.pipes.session import UnitSession
from dagster_slurm.pipes.step import Step, terminated
from dagster_slurm.work.carriers import UnitEnd
from dagster_slurm.work.components import Components, HetCarriers
from dagster_slurm.work.components_here import LocalComponents
from dagster_slurm.work.here import Uninterrupted
from dagster_slurm.work.het_loop import HetLoop
from dagster_slurm.work.loop import Loop, Report, TerminatedError
from dagster_slurm.work.on_cluster import ClusterCarriers
from dagster_slurm.work.spec import WorkSpec


class _Recorded:
    """What is recorded while the step goes on."""

    def __init__(self, recorder: ComponentRecorder, components: Components, client: Any, step: Step) -> None:
        self._recorder = recorder
        self._components = components
        self._client = client
        self._step = step
        self.write = recorder.write

    def take(self, end: UnitEnd, session: UnitSession) -> None:
        """As `Report.take`."""
        component = self._components[end.unit]
        metadata = self._client.metadata_of(self._step, component.spec, end)
        self._recorder.take(component.key, session, metadata, job_id=end.handle.job_id, collected=end.collected)


def run_components(
    step: Step, name: str | None, components: Components, done: set[AssetKey], follow: Follow, client: Any
) -> SlurmHetInvocation:
    """A call of several components.

    Args:
        step: The step.
        name: The call's name, if it has one.
        components: All of them.
        done: The assets that are on record.
        follow: Brings those that are not to their ends.
        client: Says what the end of one adds to its metadata.

    Raises:
        Failure: Some have failed; the others are materialised.
    """
    if not step.is_of_graph:
        step.pipes.expect_results("Yield each of what `run_hetjob(...)` gives: `.get_results()`.")
    recorder = ComponentRecorder(step, name)
    left = [unit for unit, component in components.items() if component.key not in done]
    with kept_connections(step.instance, step.run.run_id) if step.run else nullcontext():
        failed = follow(left, _Recorded(recorder, components, client, step))
    if failed:
        raise components_failure({unit: error for unit, (error, _) in failed.items()}, len(components))
    return SlurmHetInvocation(step, [component.key for component in components.values()], recorder.results)


class SlurmHetClient(SlurmPipesClient):
    """Runs components as one heterogeneous job. Its arguments are those of `SlurmPipesClient`."""

    _components: Components
    _on_failure: OnFailure

    def do_components(
        self, step: Step, components: Components, name: str | None, on_failure: OnFailure
    ) -> SlurmHetInvocation:
        """Submit them, or find their job; follow each to its end, and put what it reported on record.

        Raises:
            Failure: Some have failed, or the run was terminated.
        """
        self._components, self._on_failure = components, on_failure
        work = piece_of_work(step, name, self._reattach)
        done = set() if self._reattach == "never" else recorded_assets(step, work.key.origin_run_id, name)
        for component in components.values():
            for path in component.spec.staging.inputs.remote.values():
                path.on(self._cluster.host)
        first = next(iter(components.values())).spec
        return run_components(step, name, components, done, partial(self._follow, step, first, work), self)

    def metadata_of(self, step: Step, spec: WorkSpec, end: UnitEnd) -> Mapping[str, Any]:
        """What the end of one adds to its metadata."""
        return self._metadata_of_job(step, spec.metadata, end)

    def _loop(
        self,
        step: Step,
        spec: WorkSpec,
        work: PieceOfWork,
        units: Sequence[str],
        interruptions: Interruptions,
        succeeded: Report,
    ) -> tuple[Loop, ClusterCarriers]:
        carriers = HetCarriers(
            step,
            self._connection,
            work,
            self._components,
            interruptions,
            on_failure=self._on_failure,
            **self._ways,
        )
        loop = HetLoop(step, self._components, units, carriers, interruptions, succeeded, on_failure=self._on_failure)
        return loop, carriers


class LocalHetClient(LocalPipesClient):
    """Runs components side by side on this machine. Its arguments are those of `LocalPipesClient`."""

    def do_components(
        self, step: Step, components: Components, name: str | None, on_failure: OnFailure
    ) -> SlurmHetInvocation:
        """The same as processes.

        Raises:
            Failure: Some have failed, or the run was terminated.
        """
        key = piece_of_work(step, name, "retry").key
        done = recorded_assets(step, key.origin_run_id, name)
        follow = partial(self._follow_components, step, components, key.call, on_failure)
        return run_components(step, name, components, done, follow, self)

    def metadata_of(self, step: Step, spec: WorkSpec, end: UnitEnd) -> Mapping[str, Any]:
        """What the end of one adds to its metadata."""
        del step
        return self._metadata(spec.metadata, end)

    def _follow_components(
        self,
        step: Step,
        components: Components,
        call: str,
        on_failure: OnFailure,
        units: Sequence[str],
        succeeded: Report,
    ) -> Failures:
        carriers = LocalComponents(step, components, call, python=self._python, keeps=self._keep, on_failure=on_failure)
        self._warn_of_temporary(step, next(iter(components.values())).spec)
        on_threads = SHARED.find(step.run) is not None
        interruptions = Interruptions(step, outlived=False) if on_threads else Uninterrupted()
        try:
            loop = HetLoop(step, components, units, carriers, interruptions, succeeded, on_failure=on_failure)
            return loop.to_the_end()
        except TerminatedError as what:
            raise terminated(what) from None
        finally:
            carriers.remove()
