"""A directory of the node in which a payload works: copied into before, and out of after. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.launchers.hooks import Hook
from dagster_slurm.transport.shell import shell_file


@dataclass(frozen=True)
class Scratch:
    """Node-local work.

    Args:
        base: The directory of the node below which it lies; empty for the first that is set of `SLURM_TMPDIR`,
            `SCRATCH_LOCAL` and `TMPDIR`, or else `/tmp`.
        outputs: Globs of what is copied back.
    """

    base: str = ""
    outputs: tuple[str, ...] = ()

    @staticmethod
    def of(option: Literal[True] | str, outputs: Sequence[str]) -> Scratch:
        """What the option of `compute.run` asks for.

        Raises:
            InvalidRequestError: It is no absolute path.
        """
        if isinstance(option, bool):
            return Scratch("", tuple(outputs))
        if not option.startswith("/"):
            raise InvalidRequestError(
                f"scratch {option!r} is not an absolute path", hint="Give True, or a directory of the compute nodes."
            )
        return Scratch(option.rstrip("/") or "/", tuple(outputs))

    def hook(self) -> Hook:
        """What makes it, enters it, and leaves it."""
        shell = shell_file("dagster_slurm.launchers", "scratch.sh")
        return Hook("scratch", shell, {"base": self.base, "outputs": self.outputs})
