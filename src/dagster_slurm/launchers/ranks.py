"""Payloads of many ranks: a program on the first node starts them, and judges their ends. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.launchers.nodes import nodes_hook
from dagster_slurm.launchers.payload import Payload
from dagster_slurm.launchers.plan import LaunchPlan, Place, payload_command
from dagster_slurm.transport.shell import quote, shell_file

Values = Mapping[str, str | Sequence[str]]


def ranks_plan(
    payload: Payload,
    place: Place,
    program: str,
    values: Values,
    *,
    unheard: str,
    helpers: Sequence[str] = (),
    runner: str | None = None,
) -> LaunchPlan:
    """Start a payload as many ranks.

    Args:
        payload: What every rank runs.
        place: Where.
        program: The file of shell that starts them, which stands behind `ranks.sh`.
        values: The variables that it reads: a text, or several as an array.
        unheard: `DAGSTER_PIPES_MESSAGES` of every rank but the first.
        helpers: Other files of this room that it uses.
        runner: One of them, which runs a payload of Python; None if Python does.

    Raises:
        InvalidRequestError: The environment is a container that srun starts, which would start each rank as a step.
    """
    if "srun" in place.activation.wrapper[:1]:
        raise InvalidRequestError(
            f"Ranks cannot be started in {place.activation.description}, whose runtime is srun",
            hint='Choose the runtime "apptainer" or "singularity".',
        )
    files = {
        "program.sh": _program(values, "wait.sh", "ranks.sh", program),
        "rank.sh": _program({"unheard": unheard}, "wait.sh", "rank.sh"),
        **{name: _file(name) for name in helpers},
    }
    beside = {"files": [each for pair in files.items() for each in pair]}
    # The environment is the ranks' own affair.
    hook = nodes_hook("ranks", "ranks_hook.sh", place, beside, {"setup": ()})
    # Slurm keeps the command line of every step in its database: what it would be full of lies in files.
    start = ("bash", "-c", '. "$DAGSTER_SLURM_RANKS/program.sh"', "ranks")
    return LaunchPlan(place.activation.setup, (*start, *_command(payload, place, runner)), (hook,))


def _command(payload: Payload, place: Place, runner: str | None) -> tuple[str, ...]:
    command = payload_command(payload, place.activation)
    if runner is None or payload.interpreter != "python":
        return command
    behind_python = len(place.activation.wrapper) + 1
    run = f'import os; exec(open(os.path.join(os.environ["DAGSTER_SLURM_RANKS"], "{runner}")).read())'
    return (*command[:behind_python], "-c", run, *command[behind_python:])


def _program(values: Values, *names: str) -> str:
    return "\n".join((_assigned(values), *map(_file, names)))


def _assigned(values: Values) -> str:
    return "\n".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: str | Sequence[str]) -> str:
    return quote(value) if isinstance(value, str) else f"({' '.join(map(quote, value))})"


def _file(name: str) -> str:
    return shell_file("dagster_slurm.launchers", name).rstrip("\n")
