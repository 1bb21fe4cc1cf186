"""What needs file descriptors begins while there are enough."""

from __future__ import annotations

import os
import threading

import pytest
from tests.support.waiting import eventually

from dagster_slurm import descriptors
from dagster_slurm.descriptors import Descriptors, Room


@pytest.mark.parametrize(("most", "free"), [(None, float("inf")), (100, 60), (40, 0), (10, 0)])
def test_free(most: int | None, free: float) -> None:
    assert Descriptors(40, most).free == free


def test_they_are_counted() -> None:
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    try:
        assert descriptors.look().opened >= 100
    finally:
        for each in opened:
            os.close(each)


def test_one_begins_always_and_the_others_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    free, told = [0], list[str]()
    monkeypatch.setattr(descriptors, "look", lambda: Descriptors(100 - free[0], 100))
    room = Room(8)

    def begin() -> None:
        with room.opening(told.append):
            pass

    begin()
    assert told == []
    second = threading.Thread(target=begin, daemon=True)
    second.start()
    eventually(lambda: told)
    assert second.is_alive()
    free[0] = 8
    second.join()
    free[0] = 0
    third = threading.Thread(target=begin, daemon=True)
    third.start()
    eventually(lambda: len(told) == 2)
    room.closed()
    assert third.is_alive()
    room.closed()
    third.join()
    why = "this process may have 100 files and sockets open (ulimit -n), and has 100"
    assert told[0] == f"It begins when others have ended: {why}"
