"""Processes told from others of the same number, and what can be said of them from where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.process_identity import (
    Life,
    ProcessIdentity,
    Stat,
    Vantage,
    judge,
    may_have_been,
    parse_ps,
    parse_stat,
)

HERE = Vantage("laptop", "boot-1", "pid:[1]", "m1")
NOTED = ProcessIdentity("laptop", "boot-1", "pid:[1]", 123, "456")
IDENTITIES = st.builds(
    ProcessIdentity,
    host=st.text(),
    boot_id=st.text(),
    pid_namespace=st.text(),
    pid=st.integers(0, 2**31 - 1),
    started=st.text(),
)


@pytest.mark.parametrize(
    ("changes", "started", "expected"),
    [
        ({}, "456", Life.ALIVE),
        ({}, None, Life.GONE),
        ({}, "789", Life.GONE),  # the number was given to another process
        ({}, "", Life.UNKNOWN),  # there is one, and it is hidden from this user
        ({"started": ""}, "456", Life.UNKNOWN),
        ({"boot_id": "boot-0"}, "456", Life.GONE),  # a process does not outlive a reboot
        ({"boot_id": "boot-0"}, None, Life.GONE),
        ({"boot_id": "boot-0", "pid_namespace": "pid:[2]"}, None, Life.GONE),
        ({"boot_id": ""}, None, Life.UNKNOWN),
        ({"pid_namespace": "pid:[2]"}, None, Life.UNKNOWN),  # in a container, or outside of this one
        ({"pid_namespace": ""}, None, Life.UNKNOWN),
        ({"host": "cluster", "boot_id": "boot-7"}, None, Life.UNKNOWN),
        ({"host": "cluster", "boot_id": "boot-7"}, "456", Life.UNKNOWN),
        ({"host": "laptop.lan"}, "456", Life.ALIVE),  # the machine got another name, and was not restarted
        ({"host": "laptop.lan"}, None, Life.GONE),
        ({"host": "container", "pid_namespace": "pid:[2]"}, None, Life.UNKNOWN),
        ({"host": "laptop.lan", "boot_id": "boot-0"}, None, Life.UNKNOWN),
        ({"boot_id": "boot-0", "machine": "m1"}, None, Life.GONE),  # restarted
        ({"boot_id": "boot-7", "machine": "m2"}, None, Life.UNKNOWN),  # another machine of the same name
        ({"boot_id": "boot-7", "machine": ""}, None, Life.GONE),  # noted by a release that did not know
    ],
)
def test_judging(changes: dict[str, str], started: str | None, expected: Life) -> None:
    assert judge(replace(NOTED, **changes), HERE, started) is expected


def test_without_a_boot_id_nothing_is_known() -> None:
    here = replace(HERE, boot_id="")
    assert judge(replace(NOTED, boot_id=""), here, "456") is Life.UNKNOWN
    assert judge(NOTED, here, "456") is Life.UNKNOWN


@given(IDENTITIES)
def test_json_round_trip(identity: ProcessIdentity) -> None:
    assert ProcessIdentity.from_json(identity.to_json()) == identity


@pytest.mark.parametrize("pid", [-1, 2**31, 10**30, 1.0, True, "17"])
def test_a_number_that_no_process_has(pid: object) -> None:
    """kill(2) would take it for something else, or not at all."""
    with pytest.raises(ValueError, match="not the identity"):
        ProcessIdentity.from_mapping({**asdict(NOTED), "pid": pid})


def test_a_field_that_an_earlier_release_did_not_have() -> None:
    noted = asdict(NOTED)
    del noted["machine"]
    assert ProcessIdentity.from_mapping(noted) == NOTED


def test_fields_of_a_later_release_are_left_out() -> None:
    assert ProcessIdentity.from_mapping({**asdict(NOTED), "cgroup": "/x"}) == NOTED


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "{}", "null", json.dumps({**asdict(NOTED), "pid": "1"}), '{"pid": 1, "host": "x"}']
)
def test_what_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ProcessIdentity.from_json(text)


@pytest.mark.parametrize("name", ["python", "a b", "a) S 1 2 (", "((", ") Z", ""])
def test_start_time_of_a_process_with_any_name(name: str) -> None:
    fields = ["R", *map(str, range(4, 22)), "4242", *map(str, range(23, 53))]
    assert parse_stat(f"17 ({name}) {' '.join(fields)}\n") == Stat(state="R", parent=4, session=6, start_ticks=4242)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ss   Thu Jul  3 09:12:44 2025    \n", ("Ss", "Thu Jul 3 09:12:44 2025")),
        ("Z+   Thu Jul 13 09:12:44 2025\n", ("Z+", "Thu Jul 13 09:12:44 2025")),
        ("", None),
        ("\n", None),
    ],
)
def test_output_of_ps(text: str, expected: tuple[str, str] | None) -> None:
    assert parse_ps(text) == expected


def test_this_process_is_alive() -> None:
    mine = ProcessIdentity.of_this_process()
    assert mine.pid == os.getpid()
    assert mine.life() is Life.ALIVE
    assert ProcessIdentity.of(os.getpid()) == mine


def test_a_process_its_zombie_and_its_end() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    noted = ProcessIdentity.of(child.pid)
    assert noted is not None
    assert noted.life() is Life.ALIVE
    child.kill()
    deadline = time.monotonic() + 10
    while noted.life() is Life.ALIVE and time.monotonic() < deadline:
        time.sleep(0.01)
    # Not waited for yet: it is a zombie.
    assert noted.life() is Life.GONE
    assert ProcessIdentity.of(child.pid) is None
    child.wait()
    assert noted.life() is Life.GONE


def test_a_process_of_another_user_is_seen() -> None:
    first = ProcessIdentity.of(1)
    assert first is not None
    assert first.life() is Life.ALIVE
    assert replace(first, started=first.started + "0").life() is Life.GONE


def test_a_number_alone() -> None:
    now = time.time()
    assert may_have_been(os.getpid(), now)
    assert may_have_been(os.getpid(), now - 600)  # by a clock that is ten minutes behind
    assert not may_have_been(os.getpid(), now - 86400)  # noted a day ago: another process had the number
    child = subprocess.Popen(["true"])
    child.wait()
    assert not may_have_been(child.pid, now)
