"""A launch plan: what bash does to start a payload. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagster_slurm.environments import Activation
from dagster_slurm.launchers.payload import Payload
from dagster_slurm.launchers.scratch import Scratch
from dagster_slurm.transport.shell import quote


@dataclass(frozen=True)
class LaunchPlan:
    """What is done on the first node of the allocation, in the working directory.

    Args:
        setup: Lines of bash to run before, already quoted.
        command: The program and its arguments.
    """

    setup: tuple[str, ...]
    command: tuple[str, ...]


def payload_command(payload: Payload, activation: Activation) -> tuple[str, ...]:
    """The program and the arguments that run a payload in its environment, in its working directory.

    The one place that knows how: a launcher puts its own command in front of it.
    """
    return (*activation.wrapper, *_started(payload, activation.python))


def _started(payload: Payload, python: str) -> tuple[str, ...]:
    if payload.form == "module":
        return (python, "-m", payload.program)
    if payload.form == "function":
        # As a statement, and not with importlib, whose own lines would stand in the traceback of a failed import.
        module, _, function = payload.program.partition(":")
        name = function.partition(".")[0]
        return (python, "-c", f"from {module} import {name}; {function}()")
    # A shell looks a name without a slash up on the PATH; Python shows it in tracebacks as it is given.
    by_name = payload.interpreter is not None and not payload.program.startswith("-")
    program = payload.program if by_name or payload.program.startswith("/") else f"./{payload.program}"
    interpreters: dict[str | None, Sequence[str]] = {"python": (python,), "bash": ("bash",), None: ()}
    return (*interpreters[payload.interpreter], program)


def direct_plan(payload: Payload, activation: Activation) -> LaunchPlan:
    """Run the payload itself, once, with the environment active."""
    return LaunchPlan(activation.setup, payload_command(payload, activation))


def launch_function(plan: LaunchPlan, *, work_directory: str, env_file: str, scratch: Scratch | None = None) -> str:
    """The bash function `launch` that the batch script runs in the background; with those for scratch, if there is one.

    The payload's own variables come last, so that they win over what an activation sets.
    """
    lines = (
        # Without a payload to upload, nothing has made it yet.
        f"[ -d {quote(work_directory)} ] || mkdir -p -- {quote(work_directory)}",
        f"cd -- {quote(work_directory)} || exit 74",
        *(("enter_scratch || exit 74",) if scratch else ()),
        *plan.setup,
        f". {quote(env_file)} || exit 74",
        *(('export DAGSTER_SLURM_SCRATCH="$scratch"',) if scratch else ()),
        f"exec {' '.join(map(quote, plan.command))}",
    )
    function = _launch(lines)
    return f"{scratch.functions(work_directory)}\n{function}" if scratch else function


def launch_function_of_tasks(plan: LaunchPlan, *, work_directory: str, env_file: str) -> str:
    """The same for the tasks of a job array: each works in a directory of its own, with links to what all share.

    Args:
        plan: How the payload is started.
        work_directory: What all of them share: payload, extra files, inputs.
        env_file: The variables that all of them have; their own come after those.
    """
    lines = (
        f'mkdir -p -- {quote(work_directory)} "$place/work" || exit 74',
        # By links, and again in a task that was requeued.
        f'cp -rsf -- {quote(work_directory)}/. "$place/work" && cd -- "$place/work" || exit 74',
        *plan.setup,
        f'. {quote(env_file)} && . "$place/env.sh" || exit 74',
        'mkdir -p -- "$DAGSTER_SLURM_CHECKPOINT_DIR" || exit 74',
        f"exec {' '.join(map(quote, plan.command))}",
    )
    return _launch(lines)


def _launch(lines: Sequence[str]) -> str:
    return "\n".join(("launch() {", *(f"    {line}" for line in lines), "}"))
