"""The loop of a call of components: all that wait go into one job, and end and begin together if that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dagster_slurm.job.het_script import OnFailure
from dagster_slurm.job.retrying import Outcome, next_request
from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import ONE
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.slurm.states import JobState
from dagster_slurm.work.carriers import Carrier, Carriers, UnitEnd
from dagster_slurm.work.components import Components
from dagster_slurm.work.followed import FollowedUnit
from dagster_slurm.work.loop import Interrupting, Loop, Report
from dagster_slurm.work.spec import WorkSpec


class HetLoop(Loop):
    """As `Loop`, of components: all that wait go into one job, each with what it asks for.

    Args:
        step: The step.
        components: All components of the call.
        units: Those that are left.
        carriers: Where they are executed.
        interruptions: What may end the call before the units do.
        report: Takes what each unit has brought.
        on_failure: What becomes of the others when one fails.
    """

    NOUN = "asset"

    def __init__(
        self,
        step: Step,
        components: Components,
        units: Sequence[str],
        carriers: Carriers,
        interruptions: Interrupting,
        report: Report,
        *,
        on_failure: OnFailure,
    ) -> None:
        first = next(iter(components.values())).spec
        super().__init__(step, first, units, carriers, interruptions, report)
        self._ends_together = on_failure == "cancel"
        self._ended_for_another: dict[str, int | None] = {}
        self._components = components
        self._choose = self._all_together

    def _all_together(
        self, waiting: Mapping[str, Sequence[Outcome]], request_of: Callable[..., JobRequest]
    ) -> tuple[JobRequest, list[str]]:
        """Whatever each asks for."""
        units = list(waiting)
        return request_of(waiting[units[0]], units[0]), units

    def _spec_of(self, unit: str) -> WorkSpec:
        return self._components[unit].spec

    def _request_after(self, tries: Sequence[Outcome], unit: str = ONE) -> JobRequest:
        spec = self._spec_of(unit)
        return next_request(spec.request, tries, spec.rules) if tries else spec.request

    def _feed(self) -> None:
        """All at once, also where each has a carrier of its own; what ends together, begins again together."""
        if self._ends_together and any(unit in self._tries for unit in self._waiting) and self._followed:
            return
        before = 0
        while self._waiting and len(self._waiting) != before:
            before = len(self._waiting)
            super()._feed()

    def _fail(self, end: UnitEnd, unit: FollowedUnit) -> None:
        mark = end.ended.end_mark
        if self._ends_together and mark is not None and mark.figures.told and end.ended.state is JobState.FAILED:
            self._ended_for_another[end.unit] = unit.element
        super()._fail(end, unit)

    def _close(self, carrier: Carrier) -> None:
        """Those that were ended because of one that is tried again are tried with it, and it is no try of theirs."""
        again = [unit for unit in carrier.units if unit in self._waiting]
        for unit in carrier.units:
            if unit not in self._ended_for_another:
                continue
            element = self._ended_for_another.pop(unit)
            if again and unit in self.failed:
                del self.failed[unit]
                self._failures.get(carrier.number, {}).pop(element, None)
                self._waiting[unit] = self._tries.get(unit, ())
                self._log("warning", f"Asset {unit} is tried again with {', '.join(again)}, which it was ended for")
        super()._close(carrier)

    def _with_request(self, carrier: Carrier) -> Carrier:
        mine = {unit: self._tries.get(unit, ()) for unit in carrier.units if unit in self._components}
        requests = {unit: self._request_after(tries, unit) for unit, tries in mine.items()}
        first = next(iter(requests.values()), carrier.request)
        return replace(carrier, request=first, requests=requests)  # type: ignore[call-arg]
