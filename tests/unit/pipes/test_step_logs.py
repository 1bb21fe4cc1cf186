"""What is shown of output that goes back to the beginning of its line, or has no lines."""

from __future__ import annotations

from typing import Any

import pytest

from dagster_slurm.pipes.step_logs import LabelledLogs, Tail, shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [(b"", b""), (b"a", b"a"), (b"a\r", b"a"), (b"a\rb", b"b"), (b"\ra", b"a"), (b"a\rb\r\r", b"b"), (b"\r", b"")],
)
def test_what_a_terminal_shows(line: bytes, expected: bytes) -> None:
    assert shown(line) == expected


def bar(percent: int) -> bytes:
    return b"\rtrain: %3d%%|%s| loss=0.%04d" % (percent, b"#" * (percent // 4), percent)


@pytest.mark.parametrize("block_bytes", [1, 7, 1000, 10**6])
def test_the_last_state_of_a_progress_bar_stands_in_a_failure(block_bytes: int) -> None:
    written = b"".join(map(bar, range(101))) + b"\nValueError: loss is nan\r\nend"
    tail = Tail()
    for at in range(0, len(written), block_bytes):
        tail.remember(written[at : at + block_bytes])
    assert str(tail).splitlines() == [bar(100)[1:].decode(), "ValueError: loss is nan", "end"]


class Written:
    """In the place of the step's logs."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, stream: str, data: bytes) -> None:
        assert stream == "stderr"
        self.text += data


@pytest.mark.parametrize("block_bytes", [1, 7, 33])
def test_a_bar_among_the_lines_of_others(block_bytes: int) -> None:
    """Now and then, and at its end: not nothing for 64 KiB, and not each state."""
    now, logs = [0.0], Written()
    into: Any = logs
    labelled = LabelledLogs(into, "a", now=lambda: now[0])
    written = b"".join(map(bar, range(101))) + b"\nend\r\n"
    for at in range(0, len(written), block_bytes):
        now[0] = 50.0 * at / len(written)
        labelled.write("stderr", written[at : at + block_bytes])
    *bars, end = logs.text.decode().splitlines()
    assert end == "[a] end"
    assert 5 <= len(bars) <= 8
    assert bars[-1] == "[a] " + bar(100)[1:].decode()
    assert "\r" not in logs.text.decode()


def test_lines_that_end_as_on_windows_are_there_once() -> None:
    logs = Written()
    into: Any = logs
    labelled = LabelledLogs(into, "a")
    for part in (b"one\r", b"\ntwo\r\n", b"three\r"):
        labelled.write("stderr", part)
    labelled.finish()
    assert logs.text == b"[a] one\n[a] two\n[a] three\n"
