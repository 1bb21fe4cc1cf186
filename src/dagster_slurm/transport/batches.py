"""Many small things in few round trips. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches(items: Iterable[T], size: Callable[[T], int], *, max_bytes: int, max_count: int) -> Iterator[list[T]]:
    """The items in their order, in lists that are not too large; what is too large by itself is in one of its own."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and (total + size(item) > max_bytes or len(batch) == max_count):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch
