"""Payloads of many ranks: one program on the first node starts them, and judges their ends. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster_slurm.launchers.hooks import Hook
from dagster_slurm.launchers.payload import Payload
from dagster_slurm.launchers.plan import LaunchPlan, Place, payload_command
from dagster_slurm.transport.shell import quote, shell_file

Values = Mapping[str, str | Sequence[str]]


def ranks_plan(payload: Payload, place: Place, program: str, values: Values, unheard: str) -> LaunchPlan:
    """Start a payload as many ranks.

    Args:
        payload: What every rank runs.
        place: Where.
        program: The file of shell that starts them, which stands behind `ranks.sh`.
        values: The variables that it reads: a text, or several as an array.
        unheard: `DAGSTER_PIPES_MESSAGES` of every rank but the first.
    """
    shell = "\n".join((_assigned(values), _file("ranks.sh"), _file(program)))
    hook = Hook(
        "ranks", _file("ranks_hook.sh"), {"program": shell, "rank": f"unheard={quote(unheard)}\n{_file('rank.sh')}"}
    )
    # Slurm keeps the command line of every step in its database: the program is a file, and so is what a rank runs.
    command = (
        "bash",
        "-c",
        '. "$DAGSTER_SLURM_RANKS/program.sh"',
        "ranks",
        *payload_command(payload, place.activation),
    )
    return LaunchPlan(place.activation.setup, command, (hook,))


def _assigned(values: Values) -> str:
    return "\n".join(
        f"{name}={quote(each) if isinstance(each, str) else _array(each)}" for name, each in values.items()
    )


def _array(words: Sequence[str]) -> str:
    return f"({' '.join(map(quote, words))})"


def _file(name: str) -> str:
    return shell_file("dagster_slurm.launchers", name).rstrip("\n")
