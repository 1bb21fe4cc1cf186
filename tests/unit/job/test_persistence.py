"""What is repeated while a cluster cannot be reached, with injected time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from dagster_slurm.errors import (
    AuthenticationError,
    ConnectionFailedError,
    DagsterSlurmError,
    HostKeyError,
    HostNotFoundError,
    InvalidRequestError,
    RemoteStorageError,
    SlurmUnavailableError,
    SubmitLimitError,
    TransferCorruptedError,
    TransportTimeoutError,
)
from dagster_slurm.pipes.interruptions import until_answered


class World:
    """A clock that sleeping moves, and a cluster that is away until a moment."""

    def __init__(self, error: DagsterSlurmError, until_seconds: float, *, reached: bool = True) -> None:
        self.now = 0.0
        self.tries: list[float] = []
        self.told: list[tuple[str, str]] = []
        self._error, self._until = error, until_seconds
        self.persist = partial(
            until_answered,
            tell=lambda text, level: self.told.append((level, text)),
            reached=lambda: reached,
            first_contact_seconds=lambda: 300.0,
            now=lambda: self.now,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def call(self) -> str:
        self.tries.append(self.now)
        if self.now < self._until:
            raise self._error
        return "answer"


REFUSED = ConnectionFailedError("Connection refused")
UNAVAILABLE = SlurmUnavailableError("no controller", returncode=1, stderr="")


def test_a_limit_of_submitted_jobs_is_told_as_such() -> None:
    world = World(SubmitLimitError("QOSMaxSubmitJobPerUserLimit", returncode=1, stderr=""), 7200.0)
    assert world.persist(world.call) == "answer"
    assert [level for level, _ in world.told] == ["warning", "info"]
    assert world.told[0][1].startswith("Slurm takes no more jobs now; waiting. QOSMaxSubmitJobPerUserLimit")
    assert world.told[1][1].startswith("There is a place again, after 72")


@pytest.mark.parametrize(
    "error",
    [REFUSED, TransportTimeoutError("late"), UNAVAILABLE, AuthenticationError("expired"), HostNotFoundError("?")],
)
def test_an_hour_away_is_waited_for_and_told_twice(error: DagsterSlurmError) -> None:
    world = World(error, 3600.0)
    assert world.persist(world.call) == "answer"
    assert [level for level, _ in world.told] == ["warning", "info"]
    assert 3600.0 <= world.now <= 3640.0
    assert len(world.tries) < 150


def test_pauses_grow_to_their_limit() -> None:
    world = World(REFUSED, 600.0)
    world.persist(world.call)
    pauses = [later - earlier for earlier, later in pairwise(world.tries)]
    assert pauses[0] <= 1.2
    assert max(pauses) <= 36.0
    assert sum(pauses[-5:]) > 100.0


@pytest.mark.parametrize("error", [HostKeyError("x"), InvalidRequestError("x"), RemoteStorageError("x")])
def test_what_waiting_does_not_mend_is_raised_at_once(error: DagsterSlurmError) -> None:
    world = World(error, 10.0)
    with pytest.raises(type(error)):
        world.persist(world.call)
    assert world.tries == [0.0]
    assert world.told == []


@pytest.mark.parametrize("error", [AuthenticationError("x"), HostNotFoundError("x")])
def test_a_login_that_never_worked_is_not_repeated(error: DagsterSlurmError) -> None:
    world = World(error, 10.0, reached=False)
    with pytest.raises(type(error)):
        world.persist(world.call)
    assert len(world.tries) == 1


@pytest.mark.parametrize("seconds", [30.0, 300.0])
def test_a_host_that_was_never_reached_is_given_up_when_it_was_said(seconds: float) -> None:
    world = World(REFUSED, 1e9, reached=False)
    asked: list[None] = []

    def first_contact() -> float:
        asked.append(None)
        return seconds

    with pytest.raises(ConnectionFailedError):
        world.persist(world.call, first_contact_seconds=first_contact)
    assert world.now == pytest.approx(seconds)
    assert [level for level, _ in world.told] == ["warning"]
    assert world.told[0][1].startswith(
        f"The cluster does not answer; it is tried for {seconds:.0f} s more. Connection "
    )
    assert asked == [None]


def test_one_that_answers_meanwhile_is_not_given_up() -> None:
    world = World(REFUSED, 20.0, reached=False)
    assert world.persist(world.call, first_contact_seconds=lambda: 30.0) == "answer"
    assert [level for level, _ in world.told] == ["warning", "info"]


def test_how_long_it_is_tried_is_not_asked_of_one_that_was_reached() -> None:
    world = World(REFUSED, 3600.0)

    def first_contact() -> float:
        raise AssertionError("asked")

    assert world.persist(world.call, first_contact_seconds=first_contact) == "answer"


def test_a_controller_that_is_away_from_the_start_is_waited_for() -> None:
    world = World(UNAVAILABLE, 3600.0, reached=False)
    assert world.persist(world.call) == "answer"


def test_a_transfer_that_is_corrupted_again_and_again_is_given_up() -> None:
    world = World(TransferCorruptedError("x"), 1e9)
    with pytest.raises(TransferCorruptedError):
        world.persist(world.call)
    assert len(world.tries) == 3


def test_nothing_is_told_of_what_works_at_once() -> None:
    world = World(REFUSED, 0.0)
    answer: Callable[[], str] = world.call
    assert world.persist(answer) == "answer"
    assert world.told == []


def test_a_login_that_has_expired_is_told_after_the_connection_broke() -> None:
    errors = iter(
        [REFUSED, REFUSED, AuthenticationError("a login is needed"), AuthenticationError("a login is needed")]
    )
    world = World(REFUSED, 0.0)

    def call() -> str:
        error = next(errors, None)
        if error is not None:
            raise error
        return "answer"

    assert world.persist(call) == "answer"
    assert [level for level, _ in world.told] == ["warning", "warning", "info"]
    assert "a login is needed" in world.told[1][1]
