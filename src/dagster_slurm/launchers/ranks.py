"""Payloads of many ranks: one program on the first node starts them, and judges their ends. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster_slurm.launchers.hooks import Hook
from dagster_slurm.launchers.payload import Payload
from dagster_slurm.launchers.plan import LaunchPlan, Place, payload_command
from dagster_slurm.transport.shell import quote, shell_file

Values = Mapping[str, str | Sequence[str]]


def ranks_plan(
    payload: Payload, place: Place, program: str, values: Values, unheard: str, *, through: Sequence[str] = ()
) -> LaunchPlan:
    """Start a payload as many ranks.

    Args:
        payload: What every rank runs.
        place: Where.
        program: The file of shell that starts them, which stands behind `ranks.sh`.
        values: The variables that it reads: a text, or several as an array.
        unheard: `DAGSTER_PIPES_MESSAGES` of every rank but the first.
        through: What Python is told in front of a payload of Python, such as `-m mpi4py`.
    """
    shell = "\n".join((_assigned(values), _file("ranks.sh"), _file(program)))
    rank = "\n".join((_assigned({"unheard": unheard}), _file("rank.sh")))
    hook = Hook("ranks", _file("ranks_hook.sh"), {"program": shell, "rank": rank})
    # Slurm keeps the command line of every step in its database: the program is a file, and so is what a rank runs.
    start = ("bash", "-c", '. "$DAGSTER_SLURM_RANKS/program.sh"', "ranks")
    return LaunchPlan(place.activation.setup, (*start, *_command(payload, place, through)), (hook,))


def _command(payload: Payload, place: Place, through: Sequence[str]) -> tuple[str, ...]:
    command = payload_command(payload, place.activation)
    behind_python = len(place.activation.wrapper) + 1
    if payload.interpreter != "python":
        return command
    return (*command[:behind_python], *through, *command[behind_python:])


def _assigned(values: Values) -> str:
    return "\n".join(
        f"{name}={quote(each) if isinstance(each, str) else _array(each)}" for name, each in values.items()
    )


def _array(words: Sequence[str]) -> str:
    return f"({' '.join(map(quote, words))})"


def _file(name: str) -> str:
    return shell_file("dagster_slurm.launchers", name).rstrip("\n")
