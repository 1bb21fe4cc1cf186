"""A verb is sent once over a channel; from then on, a request is its name and its arguments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.counting import Counting

from dagster_slurm.transport import LocalTransport
from dagster_slurm.transport.channel import ShellChannel
from dagster_slurm.transport.shell import Verb
from dagster_slurm.transport.together import Together

LONG = "x" * 20_000


def verb_of(text: str, name: str = "said") -> Verb:
    found = Verb(text)
    found.name = name
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each exchange, a greeting included."""
    sizes: list[int] = []
    exchange = ShellChannel._exchange

    def counting(self: ShellChannel, sending: Iterable[bytes], *marks: Any) -> None:
        blocks = list(sending)
        sizes.append(sum(map(len, blocks)))
        exchange(self, blocks, *marks)

    monkeypatch.setattr(ShellChannel, "_exchange", counting)
    return sizes


@pytest.fixture
def local() -> Iterator[Callable[..., LocalTransport]]:
    made: list[LocalTransport] = []

    def transport(**options: Any) -> LocalTransport:
        made.append(LocalTransport(**options))
        return made[-1]

    yield transport
    for each in made:
        each.close()


def test_each_channel_reads_it_once(local: Callable[..., LocalTransport], sent: list[int]) -> None:
    said = verb_of(f': {LONG}\nprintf "%s." "$@"; cat; exit 3\n')
    for _ in range(2):
        transport = local(channels=1)
        for args in (("it's", ""), ("$b `c`",), ()):
            answer = transport.run(said, args, stdin=b"\0in")
            expected = "".join(f"{each}." for each in args or ("",)).encode() + b"\0in"
            assert (answer.stdout, answer.returncode) == (expected, 3)
    _, first, *others = sent[:4]
    assert first > len(LONG) > 20 * max(others)
    assert sent[5:] == [first, *others]


def test_another_text_of_the_same_name_is_another_verb(local: Callable[..., LocalTransport]) -> None:
    transport = local(channels=1)
    texts = [transport.run(verb_of(f"echo {word}\n")).text for word in ("one", "two", "two", "one")]
    assert texts == ["one\n", "two\n", "two\n", "one\n"]


def test_what_a_user_asks_for_by_a_name_is_not_a_verb_of_ours(local: Callable[..., LocalTransport]) -> None:
    """The functions that a verb makes for itself are gone with it."""
    transport = local(channels=1)
    transport.run(verb_of("true() { echo ours; }; true\n"))
    assert transport.run("true").text == ""


def test_in_one_round_trip_with_others(sent: list[int]) -> None:
    transport = Counting(channels=1, hold=lambda: time.sleep(0.3))
    one, other = (
        verb_of(f': {LONG}\necho "one $1"; cat\n', "one"),
        verb_of(f': {LONG}\necho "other $1"; exit "$1"\n', "other"),
    )
    combined = Together(transport)

    def asked(number: int) -> tuple[str, int]:
        script = (one, other, 'echo "$1"; exit 9')[number % 3]
        answer = combined.run(script, (str(number),), stdin=b"in" * (number % 3 == 0))
        return answer.text, answer.returncode

    expected = [((f"one {n}\nin", 0), (f"other {n}\n", n), (f"{n}\n", 9))[n % 3] for n in range(20)]
    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(asked, range(20))) == expected
        assert list(threads.map(asked, range(20))) == expected
    transport.close()
    assert sum(sent) < 3 * len(LONG)
