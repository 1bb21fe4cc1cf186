"""Requests of many threads in one round trip, in real shells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.counting import Counting
from tests.support.waiting import eventually

from dagster_slurm.errors import ConnectionFailedError
from dagster_slurm.transport import CompletedCommand
from dagster_slurm.transport.together import MOST, Together, taken_apart, together

THREADS = 30


@pytest.fixture
def transport() -> Iterator[Counting]:
    made = Counting(hold=lambda: time.sleep(0.3))
    yield made
    made.close()


def at_once(call: Callable[[int], CompletedCommand]) -> list[CompletedCommand]:
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(call, range(THREADS)))


def test_each_gets_its_own_answer_in_few_round_trips(transport: Counting) -> None:
    script = 'printf "%s\\0\\n" "$1"; cat; echo "to stderr $1" >&2; exit "$1"'
    combined = Together(transport)
    answers = at_once(lambda n: combined.run(script, (str(n),), stdin=b"\0 in\n" * n))
    for n, answer in enumerate(answers):
        expected = f"{n}\0\n".encode() + b"\0 in\n" * n
        assert (answer.stdout, answer.stderr, answer.returncode) == (expected, f"to stderr {n}\n".encode(), n)
    assert len(transport.scripts) <= 2 + THREADS // MOST + 1


def test_what_is_sent_together_is_this_users(
    transport: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    script = 'cat; stat -c "%A %n" "$TMPDIR"/.dagster-slurm.*; stat -c "%A %n" "$TMPDIR"/.dagster-slurm.*/*'
    combined = Together(transport)
    answers = at_once(lambda n: combined.run(script, stdin=b"secret\n"))
    modes = {line.split()[0] for each in answers for line in each.text.splitlines() if "/.dagster-slurm." in line}
    assert modes == {"drwx------", "-rw-------"}
    assert list(tmp_path.iterdir()) == []


def test_alone_is_as_without(transport: Counting) -> None:
    assert Together(transport).run('echo "$1"; exit 3', ("it's",)) == CompletedCommand(b"it's\n", b"", 3)
    assert transport.scripts == ['echo "$1"; exit 3']


def test_they_run_side_by_side_and_do_not_share_variables(transport: Counting, tmp_path: Path) -> None:
    combined = Together(transport)
    transport.hold = lambda: eventually(lambda: len(combined._gathered._waiting) >= MOST)
    # Each goes on when as many have begun as may; one after the other they never would.
    script = f'''[ -z "$mine" ] && mine=$1
    echo "$1" >>"$2"; until [ "$(grep -c . "$2")" -ge {MOST} ]; do sleep 0.02; done
    echo "$mine"'''
    begun = str(tmp_path / "begun")
    with ThreadPoolExecutor(1) as first:
        alone = first.submit(combined.run, ":")
        eventually(lambda: transport.scripts)
        answers = at_once(lambda n: combined.run(script, (str(n), begun)))
    assert [answer.text for answer in answers] == [f"{n}\n" for n in range(THREADS)]
    assert alone.result().returncode == 0


def test_stdin_that_is_left_unread_reaches_nobody_else(transport: Counting) -> None:
    combined = Together(transport)
    answers = at_once(lambda n: combined.run("cat" if n % 2 else ":", stdin=f"{n}\n".encode()))
    assert [answer.text for answer in answers] == [f"{n}\n" if n % 2 else "" for n in range(THREADS)]


def test_what_stays_behind_holds_nobody_up(transport: Counting) -> None:
    combined = Together(transport)
    began = time.monotonic()
    at_once(lambda n: combined.run("setsid sleep 20 >/dev/null 2>&1 </dev/null &"))
    assert time.monotonic() - began < 10


def test_without_a_directory_for_temporary_files(transport: Counting) -> None:
    transport.run(":")
    combined = Together(transport)
    gone = "TMPDIR=/does/not/exist; export TMPDIR"
    real = transport.run
    transport.run = lambda script, args=(), **options: real(f"{gone}\n{script}", args, **options)  # type: ignore[method-assign]
    assert [answer.text for answer in at_once(lambda n: combined.run("echo x"))] == ["x\n"] * THREADS


def test_an_error_is_everybodys_and_the_next_works(transport: Counting) -> None:
    combined = Together(transport)

    def broken(n: int) -> CompletedCommand:
        if n:
            time.sleep(0.1)
            # Ends the shell of the channel, whatever else runs in it.
            return combined.run("kill -9 $$" if n == 1 else "sleep 0.2; echo x")
        return combined.run("sleep 0.3")

    errors = 0
    with ThreadPoolExecutor(THREADS) as threads:
        for future in [threads.submit(broken, n) for n in range(8)]:
            try:
                future.result()
            except ConnectionFailedError:
                errors += 1
    assert errors > 1
    assert combined.run("echo again").text == "again\n"


@pytest.mark.parametrize("whole", [0, 1], ids=["none of them", "one of them"])
def test_what_was_cut_off_says_why(whole: int) -> None:
    """As dash says it where a login may have no more processes."""
    stdout, stderr = b"out\n17 0\n" * whole, b"err\n17 0\n" * whole + b"sh: 1: Cannot fork\n"
    with pytest.raises(ConnectionFailedError, match=r"cut off: sh: 1: Cannot fork \[host beast\]"):
        taken_apart(CompletedCommand(stdout, stderr, 2), "17", 2, host="beast")


def test_one_for_each_transport(transport: Counting) -> None:
    found: list[Together] = []
    threads = [threading.Thread(target=lambda: found.append(together(transport))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
