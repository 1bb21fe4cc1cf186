"""The pool lends each channel to one borrower at a time, and lets go of what broke."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from dagster_slurm.errors import ConnectionFailedError, TransportTimeoutError
from dagster_slurm.transport.channel import ShellChannel
from dagster_slurm.transport.pool import ChannelBudget, ChannelPool

WAIT_SECONDS = 30.0


class Opener:
    """Opens channels to the shell of this machine, and keeps count."""

    def __init__(self) -> None:
        self.opened: list[ShellChannel] = []
        self.refuse = False

    def __call__(self) -> ShellChannel:
        if self.refuse:
            raise ConnectionFailedError("not now")
        self.opened.append(ShellChannel(("sh",)))
        return self.opened[-1]


@pytest.fixture
def opener() -> Iterator[Opener]:
    opener = Opener()
    yield opener
    for channel in opener.opened:
        channel.close()


def test_a_channel_is_used_again(opener: Opener) -> None:
    pool = ChannelPool(opener, size=lambda: 2)
    seen = []
    for _ in range(3):
        with pool.lend() as channel:
            seen.append(channel)
    assert len(opener.opened) == 1
    assert set(map(id, seen)) == {id(opener.opened[0])}


def test_no_two_borrowers_share_and_no_more_than_size_are_open(opener: Opener) -> None:
    pool, lock = ChannelPool(opener, size=lambda: 3), threading.Lock()
    lent: set[int] = set()
    most = 0

    def borrow(_: int) -> None:
        nonlocal most
        with pool.lend() as channel:
            with lock:
                assert id(channel) not in lent
                lent.add(id(channel))
                most = max(most, len(lent))
            channel.request("sleep 0.01", timeout_seconds=WAIT_SECONDS)
            with lock:
                lent.discard(id(channel))

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(borrow, range(60)))
    assert most <= 3
    assert len(opener.opened) <= 3


def test_a_borrower_waits_when_all_are_lent(opener: Opener) -> None:
    pool, got = ChannelPool(opener, size=lambda: 1), threading.Event()

    def borrow() -> None:
        with pool.lend():
            got.set()

    with ThreadPoolExecutor(1) as threads:
        with pool.lend():
            waiting = threads.submit(borrow)
            assert not got.wait(0.1)
        waiting.result(WAIT_SECONDS)
    assert got.is_set()


def test_a_broken_channel_is_not_lent_again(opener: Opener) -> None:
    pool = ChannelPool(opener, size=lambda: 1)
    with pool.lend() as first:
        first.close()
    with pool.lend() as second:
        assert second.request("echo on", timeout_seconds=WAIT_SECONDS).stdout == b"on\n"
    assert second is not first


def test_a_channel_that_died_while_idle_is_not_lent(opener: Opener) -> None:
    pool = ChannelPool(opener, size=lambda: 1)
    with pool.lend() as first, pytest.raises(ConnectionFailedError):
        first.request('kill -KILL "$$"', timeout_seconds=WAIT_SECONDS)
    with pool.lend() as second:
        assert second.usable
    assert second is not first


def test_a_failure_to_open_does_not_use_up_the_pool(opener: Opener) -> None:
    pool = ChannelPool(opener, size=lambda: 1)
    opener.refuse = True
    for _ in range(3):
        with pytest.raises(ConnectionFailedError), pool.lend():
            pass
    opener.refuse = False
    with pool.lend() as channel:
        assert channel.usable


def test_an_exception_of_the_borrower_gives_the_channel_back(opener: Opener) -> None:
    pool = ChannelPool(opener, size=lambda: 1)
    with pytest.raises(KeyError), pool.lend():
        raise KeyError
    with pool.lend() as channel:
        assert channel is opener.opened[0]


def test_one_that_may_not_be_kept_is_closed(opener: Opener) -> None:
    pool = ChannelPool(opener, size=lambda: 1, keep=lambda: False)
    with pool.lend() as channel:
        assert channel.usable
    assert not channel.usable


def test_one_that_is_idle_is_closed_when_it_may_be_kept_no_longer(opener: Opener) -> None:
    wanted = threading.Event()
    pool = ChannelPool(opener, size=lambda: 1, keep=lambda: not wanted.is_set())
    for _ in range(2):
        wanted.clear()
        with pool.lend() as channel:
            pass
        assert channel.usable
        wanted.set()
        eventually(lambda: not opener.opened[-1].usable)


def test_close_closes_what_is_idle_and_the_pool_goes_on(opener: Opener) -> None:
    pool = ChannelPool(opener, size=lambda: 2)
    with pool.lend() as lent:
        with pool.lend() as idle:
            pass
        pool.close()
        assert lent.usable
        assert not idle.usable
    with pool.lend() as again:
        assert again is lent


def idle(pool: ChannelPool) -> ShellChannel:
    """One that was idle, which may have to be opened first."""

    def look() -> ShellChannel | None:
        with pool.lend_idle() as channel:
            return channel

    return eventually(look)


def test_who_can_do_without_a_channel_waits_for_none(opener: Opener) -> None:
    pool = ChannelPool(opener, size=lambda: 1)
    with pool.lend_idle() as channel:
        assert channel is None
    assert pool.is_used or eventually(lambda: pool.is_used)
    first = idle(pool)
    assert opener.opened == [first]
    with pool.lend_idle() as lent, pool.lend_idle() as none:
        assert (lent, none) == (first, None)
        assert pool.is_used


def test_one_that_cannot_be_opened_beside_is_none(opener: Opener) -> None:
    pool = ChannelPool(opener, size=lambda: 1)
    opener.refuse = True
    for _ in range(3):
        with pool.lend_idle() as channel:
            assert channel is None
    opener.refuse = False
    assert idle(pool).usable


def test_half_of_the_channels_are_never_spare(tmp_path: Path) -> None:
    budget = ChannelBudget(tmp_path / "socket", size=8)
    spare = [budget.spare() for _ in range(4)]
    with pytest.raises(TransportTimeoutError):
        budget.spare()
    needed = [budget.acquire(timeout_seconds=WAIT_SECONDS) for _ in range(4)]
    spare.pop().release()
    needed.append(budget.acquire(timeout_seconds=WAIT_SECONDS))
    with pytest.raises(TransportTimeoutError):
        budget.spare()
    for token in (*spare, *needed):
        token.release()
