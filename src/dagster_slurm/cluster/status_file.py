"""The status file that the batch script writes: a line at its start, a line at its end, for each incarnation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StartMark:
    """The batch script took the gate and starts its payload."""

    job_id: str
    restart: int
    at_epoch_seconds: float
    node: str


@dataclass(frozen=True)
class EndMark:
    """The batch script is about to end. A hint, not a proof: a requeue writes one too, SIGKILL none."""

    job_id: str
    restart: int
    exit_code: int
    at_epoch_seconds: float
    bytes_of: dict[str, int]


Mark = StartMark | EndMark


def parse_marks(text: str) -> tuple[tuple[Mark, ...], str]:
    """The marks of every whole line, and what is left of a line still being written.

    Lines of another form are passed over: a newer release may write more of them.
    """
    *lines, rest = text.split("\n")
    marks = (_parse_line(line.split(" ")) for line in lines)
    return tuple(mark for mark in marks if mark is not None), rest


def _parse_line(words: list[str]) -> Mark | None:
    try:
        if words[0] == "start":
            job_id, restart, at, node = words[1:5]
            return StartMark(job_id, int(restart), float(at), node)
        if words[0] == "end":
            job_id, restart, code, at, *sizes = words[1:8]
            names = ("stdout", "stderr", "messages")
            return EndMark(job_id, int(restart), int(code), float(at), dict(zip(names, map(int, sizes), strict=True)))
    except ValueError:
        return None
    return None
