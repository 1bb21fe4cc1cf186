"""What steps have said, as Dagster keeps it: of runs whose directories on the cluster are gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dagster import DagsterEventType, DagsterInstance

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
