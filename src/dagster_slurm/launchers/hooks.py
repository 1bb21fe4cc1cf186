"""Hooks: shell functions that run around a payload, and those that give it a directory of the node to work in. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.text import as_written
from dagster_slurm.transport.shell import quote, shell_file

_NAME = re.compile(r"[a-z][a-z0-9_]*")
TAKEN = frozenset(
    {
        "cpu_group",
        "forwarded_signals",
        "groups_list",
        "groups_root",
        "is_done",
        "is_run",
        "job_group",
        "memory_group",
        "node_ends",
        "run_directory",
        "taken_by",
        "to_end",
        "to_leave",
    }
)
"""Variables of the batch script that a hook of an unlucky name would set."""


@dataclass(frozen=True)
class Hook:
    """What is done around a payload: up to four functions of bash, whose names begin with the hook's.

    - `NAME_begin`: before the payload is started, by the shell that will end it. The payload gets its exports.
    - `NAME_enter`: by the process that becomes the payload, in its working directory.
    - `NAME_end`: when the payload has ended, however it did, and what it has left behind may still run.
    - `NAME_leave`: when nothing of it runs any more on this node, so that what is copied then is final; in a subshell.

    They begin and enter in the order of the hooks, and end and leave in reverse. A hook whose begin was called is
    ended and left, also where that has failed. They return a status, and never call `exit`.

    - A begin or enter that fails: the payload is not started. The exit code is its status; 74 if that is 1.
    - An end or leave that fails: the exit code is the payload's or, where that is 0, 74.

    They find `place`, a directory of this payload alone that every node of the job sees, with its working directory
    `work`; and `say`, which writes a line to the payload's stderr.

    Args:
        name: Lower-case letters, digits and `_`; two hooks of a payload have different ones.
        shell: The functions. All names that they do not declare `local` begin with the hook's.
        values: What they read: a text as the variable `NAME_key`, several as an array.
    """

    name: str
    shell: str
    values: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that a shell, or the batch script, would take for another.

        Raises:
            InvalidRequestError: One of them, or there is none of the four functions.
        """
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        for name in (self.name, *self.values):
            if not _NAME.fullmatch(name):
                raise InvalidRequestError(
                    f"{name!r} is not a name of a hook or of its values",
                    hint="Lower-case letters, digits and `_`, beginning with a letter.",
                )
        if taken := sorted(TAKEN.intersection(f"{self.name}_{key}" for key in self.values)):
            raise InvalidRequestError(
                f"The hook {self.name!r} would set {taken[0]!r}, which the batch script has", hint="Rename the value."
            )
        if not re.search(rf"^{self.name}_(begin|enter|end|leave) *\(\)", self.shell, re.MULTILINE):
            raise InvalidRequestError(
                f"The hook {self.name!r} does nothing",
                hint=f"Its shell defines {self.name}_begin, {self.name}_enter, {self.name}_end or {self.name}_leave.",
            )

    def text(self) -> str:
        """Its values, quoted, and its functions."""
        lines = [f"{self.name}_{key}={quoted(value)}" for key, value in self.values.items()]
        return "\n".join((*lines, self.shell.rstrip("\n")))


def quoted(value: str | Sequence[str]) -> str:
    """The value of a variable of bash: a text, or several as an array."""
    return quote(value) if isinstance(value, str) else f"({' '.join(map(quote, value))})"


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
                f"scratch {as_written(option)} is not an absolute path",
                hint="Give True, or a directory of the compute nodes.",
            )
        return Scratch(option.rstrip("/") or "/", tuple(outputs))

    def hook(self) -> Hook:
        """What makes it, enters it, and leaves it."""
        shell = shell_file("dagster_slurm.launchers", "scratch.sh")
        return Hook("scratch", shell, {"base": self.base, "outputs": self.outputs})
