"""The judge's table as a part of docs/ends.md; `python -m tests.support.judge_table` writes it there."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import asdict
from pathlib import Path

from dagster_slurm.cluster.judge import TABLE, Action, End, Fact, Patience, Row

PAGE = Path(__file__).parents[2] / "docs" / "ends.md"
HEADING = "## How the end is known\n"
INTRODUCTION = """
squeue, sacct and the line that the batch script writes at its end are the witnesses. The first row of the table that
applies decides, for every reader: a step that follows its job, a retry, `clean` and the doctor. There is no success
without an end line: a job that only Slurm calls COMPLETED fails with `JobEndNotSeenError`.

An end line leaves nothing to ask where the payload has succeeded and the line says besides: Slurm has not asked the job
to end, as it does to cancel, to preempt or to requeue it; no process of it was killed because memory had run out; it
was not started again; and it had one node, or its launcher knows how each has ended. Such a job is not waited for any
longer. If it is requeued after that, it ends at its start. After any other end, and for [figures](runs.md#metadata)
that only accounting has, sacct is waited for.
"""
STATES = {
    Action.WAIT: "waits",
    Action.ASK_QUEUE: "asks_squeue",
    Action.ASK_ACCOUNTING: "asks_sacct",
    Action.FINISH: "ended",
    Action.GIVE_UP: "unknown",
}
LAST = (Action.FINISH, Action.GIVE_UP)


def section() -> str:
    """The whole part."""
    return f"{HEADING}{INTRODUCTION}\n{diagram()}\n{table()}"


def diagram() -> str:
    """What follows from what."""
    edges = [f"    judged --> {STATES[row.action]}: {row.name}" for row in TABLE]
    back = [f"    {state} --> {'[*]' if action in LAST else 'judged'}" for action, state in STATES.items()]
    lines = ["stateDiagram-v2", "    state judged <<choice>>", "    [*] --> judged", *edges, *back]
    return "\n".join(["```mermaid", *lines, "```", ""])


def table() -> str:
    """The rows in their order."""
    lines = [f"| {row.name} | {_words(row.when)} | {_words(row.unless)} | {_follows(row)} |" for row in TABLE]
    return "\n".join(["| what is the case | when | and not | then |", "|---|---|---|---|", *lines, ""])


def page(text: str) -> str:
    """The page with this part as its last."""
    return text.partition(HEADING)[0] + section()


def _words(facts: Set[Fact]) -> str:
    patience = {name: f"{value:g}" for name, value in asdict(Patience()).items()}
    return "; ".join(fact.value.format(**patience) for fact in Fact if fact in facts)


def _follows(row: Row) -> str:
    return f"{row.action.value}: {row.end.value}" if row.end is not End.NONE else row.action.value


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
