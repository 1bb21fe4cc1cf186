"""What a trial came to, in figures, and what they should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

SUCCESS, CANCELED = "SUCCESS", "CANCELED"
NOTHING_LEFT = "all steps succeeded, nothing left to retry"


@dataclass(frozen=True)
class Figures:
    """One trial.

    Args:
        executed: How often the payload was started.
        jobs: How many jobs ran the payload.
        end: The end of the last run of the lineage.
        missing: Lines that the step's log of the run that ended it does not have.
        doubled: Lines that it has more than once, counted from the second.
        submitted: How many jobs there were, those included that ended at the gate.
        runs: How many runs it took.
        collected: How often Dagster recorded the step's success, in all of them.
        trial: Its name, for those who look why it is wrong.
    """

    executed: int
    jobs: int
    end: str
    missing: int = 0
    doubled: int = 0
    submitted: int = 0
    runs: int = 1
    collected: int = 1
    trial: str = ""

    def as_expected(
        self, *, executed: int = 1, jobs: int | None = None, ends: Sequence[str] = (SUCCESS,), lines: bool = True
    ) -> bool:
        """Whether it was run that often, by that many jobs, ended right, was collected once, and no line is off."""
        whole = not self.missing + self.doubled and (self.collected == 1 or self.end == CANCELED)
        wanted = (executed, executed if jobs is None else jobs)
        return (self.executed, self.jobs) == wanted and self.end in ends and (whole or not lines)


def lines_off(log: str, expected: Sequence[str]) -> tuple[int, int]:
    """How many lines are missing in a log, and how many are there once more than they should be."""
    seen = Counter(log.splitlines())
    return sum(not seen[line] for line in expected), sum(max(0, seen[line] - 1) for line in expected)


@dataclass(frozen=True)
class Row:
    """The figures of all trials of one row of the table."""

    trials: int
    executed: str
    jobs: str
    end: str
    missing: int
    doubled: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def summary(trials: Sequence[Figures]) -> Row:
    """One row out of many trials: the range where there is one, the sum of what is wrong."""
    return Row(
        trials=len(trials),
        executed=_range(each.executed for each in trials),
        jobs=_range(each.jobs for each in trials),
        end=", ".join(f"{end} {count}" if len(trials) > 1 else end for end, count in _ends(trials)),
        missing=sum(each.missing for each in trials),
        doubled=sum(each.doubled for each in trials),
    )


def _ends(trials: Sequence[Figures]) -> list[tuple[str, int]]:
    return Counter(each.end for each in trials).most_common()


def _range(values: object) -> str:
    found = sorted(set(values))  # type: ignore[call-overload]
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
