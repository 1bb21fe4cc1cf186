"""Job arrays in Slurm's words: "123_7" is task 7 of array 123, "0-9%4" ten tasks of which four run at once. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.slurm.states import JobState, StatePhase


def array_option(count: int, max_parallel: int | None) -> str:
    """What `sbatch --array` is given for tasks 0 to `count` - 1 (sbatch(1), `--array`)."""
    limit = f"%{max_parallel}" if max_parallel is not None and max_parallel < count else ""
    return f"{f'0-{count - 1}' if count > 1 else '0'}{limit}"


_TASKS = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", re.ASCII)


def tasks_of(expression: str) -> Iterator[range]:
    """The tasks that squeue's "1,3-5,8-12:2%4" stands for; what is cut off ("...") is left out."""
    for found in filter(None, map(_TASKS.fullmatch, expression.partition("%")[0].split(","))):
        yield range(int(found[1]), int(found[2] or found[1]) + 1, int(found[3] or 1) or 1)


def entries_of(entries: Sequence[QueueEntry], job_ids: Iterable[str]) -> Mapping[str, QueueEntry]:
    """Lines of squeue by the ids that were asked about; tasks that wait together share one line.

    Args:
        entries: What squeue printed.
        job_ids: Jobs, tasks of arrays ("123_7"), and requests to sessions ("123.r7"), of which it has the allocation.
    """
    wanted = set(job_ids)
    tasks: dict[str, set[int]] = {}
    requests: dict[str, list[str]] = {}
    for part in filter(None, map(JobId.find, wanted)):
        if part.step.startswith("r"):
            requests.setdefault(part.in_queue, []).append(str(part))
        elif part.task is not None:
            tasks.setdefault(part.in_queue, set()).add(part.task)
    found: dict[str, QueueEntry] = _components(entries, wanted)
    for entry in entries:
        for job_id in (*_ids(entry, tasks), *requests.get(entry.job_id, ())):
            if job_id in wanted:
                found[job_id] = entry
    # An array lives as long as one of its tasks.
    for entry in sorted(entries, key=lambda entry: rank(entry.state), reverse=True):
        if entry.array_job_id in wanted:
            found[entry.array_job_id] = entry
    return found


def _components(entries: Sequence[QueueEntry], wanted: AbstractSet[str]) -> dict[str, QueueEntry]:
    """The lines of components, by "12+1". Each has a number of its own: the leader's and those after it (22.05.8)."""
    by_number = {entry.job_id: entry for entry in entries}
    found = {}
    for part in filter(None, map(JobId.find, wanted)):
        leader = by_number.get(part.in_queue)
        if part.component is None or leader is None:
            continue
        own = by_number.get(str(part.job + part.component), leader)
        # Where numbers were not free, the leader speaks for all: they begin and end together.
        found[str(part)] = own if own.name == leader.name else leader
    return found


def _ids(entry: QueueEntry, wanted: Mapping[str, AbstractSet[int]]) -> list[str]:
    if entry.array_task_id is None:
        return [entry.job_id]
    # The task that is left last has the array's own number (22.05.8).
    array = JobId.parse(entry.array_job_id)
    tasks = wanted.get(array.in_queue, frozenset())
    return [str(array.of_task(task)) for each in tasks_of(entry.array_task_id) for task in _in_both(each, tasks)]


def _in_both(named: range, wanted: AbstractSet[int]) -> Iterator[int]:
    """By the shorter of them: an answer may name more tasks than there is memory for."""
    return filter(wanted.__contains__, named) if len(named) < len(wanted) else filter(named.__contains__, wanted)


def records_of(records: Mapping[str, AccountingRecord], job_ids: Iterable[str]) -> Mapping[str, AccountingRecord]:
    """Records of sacct, and one for each array, or heterogeneous job, that was asked about as a whole.

    It is as the part that has not ended or, when all have, one that has failed.
    """
    tasks: dict[str, list[AccountingRecord]] = {}
    for job_id, record in records.items():
        part = JobId.parse(job_id)
        if part.is_task or part.component is not None:
            tasks.setdefault(part.in_queue, []).append(record)
    whole = {
        job_id: min(tasks[job_id], key=lambda task: rank(task.state))
        for job_id in job_ids
        if job_id in tasks and job_id not in records
    }
    return {**records, **{job_id: replace(record, job_id=job_id) for job_id, record in whole.items()}}


def tally(entries: Iterable[QueueEntry], records: Iterable[AccountingRecord]) -> Mapping[JobState, int]:
    """How many tasks of an array are in which state: first those that hold nodes, then those that wait, then the ended.

    Args:
        entries: squeue's lines of it.
        records: sacct's, which count for tasks that squeue does not name.
    """
    counts: Counter[JobState] = Counter()
    named: list[range] = []
    for entry in entries:
        tasks = list(tasks_of(entry.array_task_id or ""))
        named += tasks
        counts[entry.state] += sum(map(len, tasks))
    for record in records:
        task = JobId.parse(record.job_id).task
        if task is not None and not any(task in each for each in named):
            counts[record.state] += 1
    return {state: counts[state] for state in sorted(counts, key=lambda state: _FIRST.index(state.phase))}


_FIRST = (StatePhase.ACTIVE, StatePhase.WAITING, StatePhase.ENDED)


def rank(state: JobState) -> int:
    """By what an array is as one of its tasks: those that have not ended first, then those that have failed."""
    return state.is_terminal + state.is_success
