"""What one step found. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.housekeeping.tables import wrapped
from dagster_slurm.text import counted, printable

Status = Literal["ok", "warning", "wrong", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one step found; every text is one line.

    Args:
        step: The step's name.
        status: `ok`, `warning` (works, and should be looked at), `wrong`, or `skipped` (not checked).
        found: What is there; of a skipped step, why it was not checked.
        problem: What is wrong, a sentence without a stop.
        remedy: What to do about it.
    """

    step: str
    status: Status
    found: str = ""
    problem: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        for name in ("found", "problem", "remedy"):
            object.__setattr__(self, name, " ".join(getattr(self, name).split()))


def fine(step: str, found: str) -> Finding:
    """All is well."""
    return Finding(step, "ok", found)


def warning(step: str, problem: str, remedy: str, found: str = "") -> Finding:
    """It works, and should be looked at."""
    return Finding(step, "warning", found, problem, remedy)


def wrong(step: str, problem: str, remedy: str, found: str = "") -> Finding:
    """It does not work."""
    return Finding(step, "wrong", found, problem, remedy)


def skipped(step: str, reason: str) -> Finding:
    """It was not checked."""
    return Finding(step, "skipped", reason)


def from_error(step: str, error: DagsterSlurmError, *, found: str = "", remedy: str = "") -> Finding:
    """It does not work, as an error says."""
    known = remedy or error.hint or "See the message; the pages on configuration and errors tell more."
    return wrong(step, error.message, known, found)


FORMAT_VERSION = 1
_WORDS: dict[Status, str] = {"ok": "ok", "warning": "warning", "wrong": "WRONG", "skipped": "-"}
_STATUS_WIDTH, _STEP_WIDTH = 9, 14
Paint = Callable[[str, Status], str]


def plain(text: str, status: Status) -> str:
    """No colours."""
    del status
    return text


def lines_of(finding: Finding, paint: Paint = plain, width: int | None = None) -> list[str]:
    """A finding: one line, with the fault and what to do about it if there is one; then what is there.

    Args:
        finding: The finding.
        paint: Gives the word for how it is its colour.
        width: How long a line may be; None for whatever is needed.
    """
    return _lines(finding.status, finding.step, _texts(finding), paint, width)


def lines_of_skipped(findings: Iterable[Finding], paint: Paint = plain, width: int | None = None) -> list[str]:
    """What was not checked, in a line for each reason."""
    steps: dict[str, list[str]] = {}
    for finding in findings:
        if finding.status == "skipped":
            steps.setdefault(finding.found, []).append(finding.step)
    texts = [f"{', '.join(names)}: {reason}" for reason, names in steps.items()]
    return [line for text in texts for line in _lines("skipped", "not checked", [text], paint, width)]


def _lines(status: Status, step: str, texts: Sequence[str], paint: Paint, width: int | None) -> list[str]:
    # What a site says, and not the colours.
    indent = _STATUS_WIDTH + _STEP_WIDTH
    first, *rest = [line for text in texts for line in wrapped(printable(text), width, indent=indent)]
    word = paint(f"{_WORDS[status]:{_STATUS_WIDTH}}", status)
    if width is not None and len(first) > width:
        # A path that is longer than there is room: whole, to be copied, and on a line of its own.
        return [f"{word}{step}", first, *rest]
    return [f"{word}{step:{_STEP_WIDTH}}{first[indent:]}", *rest]


def _texts(finding: Finding) -> list[str]:
    if finding.status == "skipped":
        return [f"not checked: {finding.found}"]
    if not finding.problem:
        return [finding.found]
    told = f"{finding.problem.rstrip('.')}. {finding.remedy}".rstrip()
    return [told, *([f"({finding.found})"] if finding.found else [])]


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    named = {status: [each.step for each in findings if each.status == status] for status in _WORDS}
    parts = [f"{counted(len(named['ok']), 'step')} fine"]
    if named["warning"]:
        parts.append(f"{counted(len(named['warning']), 'warning')} ({', '.join(named['warning'])})")
    if named["skipped"]:
        parts.append(f"{len(named['skipped'])} not checked")
    head = f"Wrong: {', '.join(named['wrong'])}" if named["wrong"] else "Nothing is wrong"
    return f"{head}; {', '.join(parts)}."


def overall(findings: Iterable[Finding]) -> Status:
    """The worst status: `wrong`, `warning` or `ok`."""
    found = {each.status for each in findings}
    return "wrong" if "wrong" in found else "warning" if "warning" in found else "ok"


def as_json(findings: Sequence[Finding], *, host: str | None, logins: int) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "version": FORMAT_VERSION,
        "status": overall(findings),
        "host": host,
        "logins": logins,
        "summary": summary(findings),
        "findings": [
            {
                "step": each.step,
                "status": each.status,
                "found": each.found,
                "problem": each.problem,
                "remedy": each.remedy,
            }
            for each in findings
        ],
    }
