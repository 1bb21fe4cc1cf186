"""Ids as Slurm writes them: "12" a job, "12_3" a task of an array, "12+1" a component, "12.4" a step. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import total_ordering

from dagster_slurm.errors import SlurmOutputError

_FORM = re.compile(
    r"(?P<job>\d{1,18})(?:_(?P<task>\d{1,18})|_\[(?P<waiting>[\d,:%.-]+)\]|\+(?P<component>\d{1,18}))?"
    r"(?:\.(?P<step>\w{1,64}(?:\+\d{1,18})?))?",
    re.ASCII,
)


@total_ordering
@dataclass(frozen=True)
class JobId:
    """What Slurm's commands call a job, or a part of one (sacct(1), JobID; job_array.html; heterogeneous_jobs.html).

    Ids are ordered by their numbers; what is a part of a job comes after it.

    Args:
        job: The number of the job; of an array its own, of a heterogeneous job that of its leader.
        task: The task of an array.
        waiting: The tasks that share one line while they wait, as they stand there: "3-9%2".
        component: The component of a heterogeneous job.
        step: The step: a number, "0+1" for its part in a component, or one that Slurm makes, such as `batch`. "r7" is
            ours, not Slurm's: the seventh request to a session, whose number as a step only its start brings.
    """

    job: int
    task: int | None = None
    waiting: str = ""
    component: int | None = None
    step: str = ""

    @classmethod
    def find(cls, text: str) -> JobId | None:
        """The id that a text is; None if it is none."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        task, component = _number(found["task"]), _number(found["component"])
        return cls(int(found["job"]), task, found["waiting"] or "", component, found["step"] or "")

    @classmethod
    def parse(cls, text: str) -> JobId:
        """The id that a text is.

        Raises:
            SlurmOutputError: It is none.
        """
        found = cls.find(text)
        if found is None:
            what = "not the id of a job, of a task of an array, of a component or of a step"
            raise SlurmOutputError(f"{what}: {text[:200]!r}")
        return found

    def __str__(self) -> str:
        """As Slurm writes it, and as sacct and scancel take it."""
        parts = (
            "" if self.task is None else f"_{self.task}",
            f"_[{self.waiting}]" if self.waiting else "",
            "" if self.component is None else f"+{self.component}",
            f".{self.step}" if self.step else "",
        )
        return f"{self.job}{''.join(parts)}"

    def __lt__(self, other: JobId) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[object, ...]:
        numbers = (self.job, _or_first(self.task), _or_first(self.component), _or_first(_number(self.step)))
        return (*numbers, self.waiting, self.step)

    @property
    def in_queue(self) -> str:
        """What squeue is asked about: the job, whose parts have lines of their own in the answer."""
        return str(self.job)

    @property
    def is_task(self) -> bool:
        """Whether it is a part of an array."""
        return self.task is not None or bool(self.waiting)

    @property
    def whole(self) -> JobId:
        """The same without its step."""
        return replace(self, step="")

    @property
    def is_request(self) -> bool:
        """Whether it is a request to a session."""
        return self.step.startswith("r") and self.step[1:].isdecimal()

    def of_task(self, task: int) -> JobId:
        """One task of this array."""
        return replace(self, task=task)

    def of_component(self, component: int) -> JobId:
        """One component of this heterogeneous job."""
        return replace(self, component=component)


def title_of(job_id: str) -> str:
    """What people call a job, or a step of a session, by its id."""
    found = JobId.find(job_id)
    return f"Slurm {'step' if found is not None and found.step else 'job'} {job_id}"


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _or_first(number: int | None) -> int:
    return -1 if number is None else number
