"""A directory of the node in which a payload works: copied into before, and out of after. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.transport.shell import quote, shell_file


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
    def of(option: bool | str | None, outputs: Sequence[str]) -> Scratch | None:
        """What the option of `compute.run` asks for.

        Raises:
            InvalidRequestError: It is no absolute path.
        """
        if option is None or option is False:
            return None
        if option is True:
            return Scratch("", tuple(outputs))
        if not option.startswith("/"):
            raise InvalidRequestError(
                f"scratch {option!r} is not an absolute path", hint="Give True, or a directory of the compute nodes."
            )
        return Scratch(option.rstrip("/") or "/", tuple(outputs))

    def functions(self, work_directory: str) -> str:
        """The bash functions `make_scratch`, `enter_scratch` and `leave_scratch`, with what they are to do."""
        return "\n".join(
            (
                f"scratch_base={quote(self.base)}",
                f"scratch_work={quote(work_directory)}",
                f"scratch_outputs=({' '.join(map(quote, self.outputs))})",
                shell_file("dagster_slurm.launchers", "scratch.sh").rstrip("\n"),
            )
        )
