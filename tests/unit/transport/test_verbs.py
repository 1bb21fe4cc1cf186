"""A verb is sent once over a channel; from then on, a request is its name and its arguments."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.counting import Counting

import dagster_slurm
from dagster_slurm.transport import LocalTransport
from dagster_slurm.transport.channel import ShellChannel
from dagster_slurm.transport.shell import Verb, verb
from dagster_slurm.transport.together import Together

LONG = "x" * 20_000
SOURCE = Path(dagster_slurm.__file__).parent
PACKAGES = ("cluster_scripts", "transport/scripts", "doctor")
# Programs of their own.
PROGRAMS = {"askpass.sh", "lifeline.sh", "session_step.sh"}
FUNCTION = re.compile(r"^(\w+)\(\) [{(]", re.MULTILINE)
# Of all verbs, those that are more than one function.
CALLED = {
    "check_writing": {"clean_up"},
    "clean": {"close_unless_changed", "remove_empty", "remove_launch", "remove_part", "remove_tree", "state_of_launch"},
    "dagster_slurm_serve": {
        "dagster_slurm_answer",
        "dagster_slurm_answer_on_one_stream",
        "dagster_slurm_answer_on_two_streams",
        "dagster_slurm_leave_tty",
        "dagster_slurm_loop",
    },
    "environment_remove": {"days_before", "remove_tree"},
    "facts": {"judge_way"},
    "look": {"add_root", "ask_slurm", "leads_to", "looked_whole", "read_answer"},
    "put_tree": {"check_all_sums", "check_sums"},
    "submit": {
        "dagster_slurm_are_answered",
        "dagster_slurm_bring",
        "dagster_slurm_claim",
        "dagster_slurm_is_ours",
        "dagster_slurm_link_asset",
        "dagster_slurm_link_assets",
        "dagster_slurm_make",
        "dagster_slurm_make_part",
        "dagster_slurm_place",
        "dagster_slurm_print",
        "dagster_slurm_submit",
    },
    "together": {"dagster_slurm_begin"},
    "upload_begin": {"is_there"},
    "upload_publish": {"forget"},
    "upload_unpack": {"put_tree", "check_all_sums", "check_sums"},
}


def files() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((SOURCE / package).glob("*.sh"))]
    return [path for path in found if path.name not in PROGRAMS]


def verbs() -> list[Verb]:
    return [
        verb(name, f"dagster_slurm.{path.relative_to(SOURCE).parent.as_posix().replace('/', '.')}")
        for path in files()
        for name in FUNCTION.findall(path.read_text(encoding="utf-8"))
    ]


def test_each_file_has_nothing_but_functions_and_all_of_them_are_read() -> None:
    found = "".join(verbs())
    for path in files():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("# ")]
        assert [line for line in lines if line and f"{line}\n" not in found] == []


def test_no_two_functions_have_one_name() -> None:
    found = [each.name for each in verbs()]
    assert sorted(found) == sorted(set(found))


def test_a_verb_is_sent_with_what_it_calls_and_no_more() -> None:
    called = {each.name: set(FUNCTION.findall(each)) - {each.name} for each in verbs()}
    helpers = set().union(*CALLED.values()) - {"put_tree"}
    assert {name: more for name, more in called.items() if more and name not in helpers} == CALLED


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_each_is_a_function_of_any_shell(shell: str) -> None:
    text = "".join(f"dagster_slurm_{each.name}() {{\n{each}}}\n" for each in verbs())
    subprocess.run([shell, "-n"], input=text.encode(), check=True)


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
