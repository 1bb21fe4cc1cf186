"""What Dagster has recorded of a piece of work: whether its result is collected, and by whom; what steps have said."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from dagster import DagsterEventType, DagsterInstance, DagsterRun, RunRecord, RunsFilter

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.housekeeping.jobs_table import RunStanding, Word, unknown
from dagster_slurm.pipes.dagster_runs import instance_of_environment
from dagster_slurm.pipes.launch_key import lineage_of, origins


class DagsterRecords:
    """Dagster's records, asked once for each run.

    Args:
        instance: Where they are; None where no DAGSTER_HOME is set, and then no run is known.
    """

    def __init__(self, instance: DagsterInstance | None) -> None:
        self._instance = instance
        self._groups: dict[str, list[RunRecord]] = {}
        self._successes: dict[str, frozenset[str | None]] = {}

    def afresh(self) -> DagsterRecords:
        """The same, of which nothing has been asked yet."""
        return DagsterRecords(self._instance)

    @property
    def are_there(self) -> bool:
        """Whether there are any."""
        return self._instance is not None

    def word(self, origin_run_ids: Sequence[str], step_key: str) -> Word:
        """What they say of a piece of work.

        Its runs are those in which it was asked for, and their descendants. A success in a run before it, or beside
        it, is of another piece of work.

        Args:
            origin_run_ids: The runs in which it was asked for.
            step_key: Its step.
        """
        known = [run_id for run_id in origin_run_ids if self._group(run_id)]
        if self._instance is None or not known:
            return unknown(origin_run_ids, step_key)
        family = self._descendants(known)
        own = [each for each in family if self._works_on(each.dagster_run, known, step_key)]
        newest = max(own, key=lambda each: each.create_timestamp).dagster_run
        ends = [each.end_time for each in family if each.end_time]
        over_seconds = max(0.0, time.time() - max(ends)) if ends else None
        standing = self._standing(family, step_key, all_known=len(known) == len(origin_run_ids))
        return Word(standing, newest.run_id, newest.status.value, over_seconds)

    def _standing(self, family: Sequence[RunRecord], step_key: str, *, all_known: bool) -> RunStanding:
        if any(step_key in self._succeeded_steps(each.dagster_run.run_id) for each in family):
            return RunStanding.SUCCEEDED
        if any(not each.dagster_run.is_finished for each in family):
            return RunStanding.IN_PROGRESS
        return RunStanding.OVER if all_known else RunStanding.UNKNOWN

    def _group(self, run_id: str) -> list[RunRecord]:
        """A run and all its relatives; nothing if it is not known."""
        if self._instance is None or run_id in self._groups:
            return self._groups.get(run_id, [])
        records: list[RunRecord] = []
        if self._instance.has_run(run_id):
            group = self._instance.get_run_group(run_id)
            ids = [run.run_id for run in group[1]] if group else [run_id]
            records = list(self._instance.get_run_records(RunsFilter(run_ids=ids)))
        self._groups.update({record.dagster_run.run_id: records for record in records})
        return self._groups.setdefault(run_id, records)

    def _descendants(self, run_ids: Sequence[str]) -> list[RunRecord]:
        records = {each.dagster_run.run_id: each for run_id in run_ids for each in self._group(run_id)}
        found = dict.fromkeys(run_ids)
        for each in sorted(records.values(), key=lambda each: each.create_timestamp):
            if each.dagster_run.parent_run_id in found:
                found[each.dagster_run.run_id] = None
        return [records[run_id] for run_id in found if run_id in records]

    def _works_on(self, run: DagsterRun, origin_run_ids: Sequence[str], step_key: str) -> bool:
        if run.run_id in origin_run_ids or self._instance is None:
            return True
        return origins(lineage_of(self._instance, run, step_key)).own in origin_run_ids

    def _succeeded_steps(self, run_id: str) -> frozenset[str | None]:
        if run_id not in self._successes and self._instance is not None:
            events = self._instance.all_logs(run_id, of_type=DagsterEventType.STEP_SUCCESS)
            self._successes[run_id] = frozenset(event.step_key for event in events)
        return self._successes[run_id]


@contextmanager
def records_of_environment() -> Iterator[DagsterRecords]:
    """Those of DAGSTER_HOME, if that is set.

    Raises:
        ConfigurationError: It is set, and is not usable.
    """
    with ExitStack() as stack:
        try:
            instance = stack.enter_context(instance_of_environment())
        except ConfigurationError:
            if os.environ.get("DAGSTER_HOME"):
                raise
            instance = None
        yield DagsterRecords(instance)


# In which a beginning of an id is looked for.
_NEWEST_RUNS = 1000


@dataclass(frozen=True)
class Captured:
    """The output of one step, or of some that one process has executed.

    Args:
        run_id: Their run.
        steps: Their keys.
        stdout: What they have said.
        stderr: And on stderr.
    """

    run_id: str
    steps: tuple[str, ...]
    stdout: str
    stderr: str


def captured_logs(instance: DagsterInstance, run_id: str) -> Iterator[Captured]:
    """Those of the run whose id begins so; nothing if there is none, or if there are several."""
    found = run_id if instance.has_run(run_id) else _whole(instance, run_id)
    if found is None:
        return
    manager = instance.compute_log_manager
    for entry in instance.all_logs(found, of_type=DagsterEventType.LOGS_CAPTURED):
        data = entry.get_dagster_event().logs_captured_data if entry.is_dagster_event else None
        if data is not None:
            said = manager.get_log_data(manager.build_log_key_for_run(found, data.file_key))
            stdout, stderr = ((text or b"").decode("utf-8", "replace") for text in (said.stdout, said.stderr))
            yield Captured(found, tuple(data.step_keys or ()), stdout, stderr)


def _whole(instance: DagsterInstance, beginning: str) -> str | None:
    runs = instance.get_run_records(limit=_NEWEST_RUNS) if beginning else []
    found = [each.dagster_run.run_id for each in runs if each.dagster_run.run_id.startswith(beginning)]
    return found[0] if len(found) == 1 else None
