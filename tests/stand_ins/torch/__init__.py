"""A STAND-IN for torch 2.13.0, for tests where the real one would bring gigabytes for GPUs: no code of it.

What is real: an agent on each node (`python -m torch.distributed.run`) with the options that the launcher gives; agents
that meet at the endpoint, on the node that has its address, and let nobody in who has another run id; the variables of
the ranks, each in a session of its own; restarts of all ranks; sums and barriers over all ranks.

What is not: tensors are rows of numbers, and nothing is learned; there is one way to meet, and one to sum, over the
first rank; an agent that is lost ends all others.
"""

from __future__ import annotations

from collections.abc import Iterable

__version__ = "2.13.0+stand.in"


class Tensor:
    """A row of numbers."""

    def __init__(self, values: Iterable[float]) -> None:
        self.values = [float(value) for value in values]

    def item(self) -> float:
        """The only one."""
        (value,) = self.values
        return value

    def tolist(self) -> list[float]:
        return list(self.values)


def tensor(values: Iterable[float]) -> Tensor:
    """As torch's, of one dimension."""
    return Tensor(values)


class cuda:  # noqa: N801 - torch's name, where it is a module
    """There is no GPU."""

    @staticmethod
    def is_available() -> bool:
        return False
