"""Which jobs somebody means who names a job or a run. Pure, but for what Dagster's records are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.housekeeping.rows import JobRow, Shown, Wanted, WordOf, shown
from dagster_slurm.housekeeping.seen import SeenJob, Survey
from dagster_slurm.run_directory import JobHandle, RunDirectory
from dagster_slurm.slurm import arrays
from dagster_slurm.slurm.job_id import JobId

LEAST_OF_A_RUN = 4
"""How much of a run's id names it."""


@dataclass(frozen=True)
class Chosen:
    """A job, or a task of an array, that was named.

    Args:
        job: The job; of a task, its array.
        row: What is shown of that.
        task: The task; None for all of it.
    """

    job: SeenJob
    row: JobRow
    task: int | None = None

    @property
    def job_id(self) -> str:
        """As Slurm writes it: "12", or "12_3"."""
        whole = JobId.parse(self.job.job_id)
        return str(whole if self.task is None else whole.of_task(self.task))

    @property
    def place(self) -> RunDirectory | None:
        """Where its payload runs; None if Slurm does not know."""
        whole = self.job.place
        return whole if whole is None or self.task is None else whole.of_element(self.task)

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"Slurm job {self.job_id} ({self.row.asset or 'no asset'}, run {self.row.run_id or 'not known'})"

    @property
    def handle(self) -> JobHandle:
        """What tells it from another job of its number: its name, or its directory."""
        # By its name alone: `RunDirectory.job_name` is the key of a first try.
        place = self.job.place or RunDirectory("", "", self.job.name)
        generation = self.job.claim.generation if self.job.claim else (place.try_named(self.job.name) or (0, 0))[1]
        return JobHandle(place, self.job_id, generation)

    @property
    def is_live(self) -> bool:
        """Whether squeue says that it has not ended."""
        if self.task is None:
            return self.job.is_live
        return any(not each.entry.state.is_terminal for each in self.job.tasks if self._is_of(each.entry.array_task_id))

    @property
    def own_number(self) -> str | None:
        """The number of the job that runs, which a task has besides its id; None while it does not run."""
        if self.task is None and not self.job.tasks:
            return self.job.job_id if self.job.is_live else None
        running = [each.entry for each in self.job.tasks if not each.entry.state.is_terminal and each.entry.node_list]
        return next((entry.job_id for entry in running if self._is_of(entry.array_task_id)), None)

    def _is_of(self, tasks: str | None) -> bool:
        return self.task is not None and any(self.task in each for each in arrays.tasks_of(tasks or ""))


def chosen(seen: Survey, word_of: WordOf, named: str) -> list[Chosen]:
    """The jobs that a number of Slurm's, or an id of a run, stands for.

    Args:
        seen: What was seen.
        word_of: Tells what Dagster says of origin runs and step.
        named: "12", "12_3" for a task, or how the id of a run begins.

    Raises:
        InvalidRequestError: There is none, or it may be of several runs.
    """
    number = JobId.find(named)
    everything = shown(seen, word_of, Wanted(everything=True))
    if number is not None:
        found = [each for each in everything if JobId.parse(each.job.job_id).in_queue == number.in_queue]
        if found:
            return [_part(each, number.task) for each in found]
    found = _of_run(everything, named)
    if not found:
        raise InvalidRequestError(
            f"No job of a run is known as {named}",
            hint="`dagster-slurm jobs --all` has what is known: name a job's number, or how the id of a run begins.",
        )
    return [Chosen(each.job, each.row) for each in found]


def _part(found: Shown, task: int | None) -> Chosen:
    elements = found.job.attempt.description.elements if found.job.attempt else ()
    is_one = task is None or (task < len(elements) if elements else bool(found.job.tasks))
    if not is_one:
        what = f"has {len(elements)} tasks, from 0 on" if elements else "is no array"
        raise InvalidRequestError(f"There is no task {task} of job {found.job.job_id}: it {what}")
    return Chosen(found.job, found.row, task)


def _of_run(everything: Sequence[Shown], named: str) -> list[Shown]:
    if len(named) < LEAST_OF_A_RUN:
        return []
    runs = {run for each in everything for run in each.run_ids if run.startswith(named)}
    if len(runs) > 1 and named not in runs:
        raise InvalidRequestError(f"The ids of several runs begin with {named}", hint=", ".join(sorted(runs)))
    return [each for each in everything if runs & set(each.run_ids)]
