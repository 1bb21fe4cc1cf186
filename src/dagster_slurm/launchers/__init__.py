"""How a payload is started: pure plans, the batch script of them, hooks on every node, and payloads of many ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dagster_slurm.environments import Activation
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.launchers.hooks import Hook, Scratch, quoted
from dagster_slurm.launchers.payload import Payload, as_payload, payload_from_path, work_files
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.transport.shell import quote, shell_file

__all__ = [
    "Hook",
    "KeptCluster",
    "LaunchPlan",
    "Payload",
    "Place",
    "Planner",
    "Requirements",
    "Scratch",
    "as_payload",
    "direct_plan",
    "launch_in_job",
    "launch_script",
    "nodes_hook",
    "payload_command",
    "payload_from_path",
    "ranks_plan",
    "script_here",
    "work_files",
]


@dataclass(frozen=True)
class Place:
    """Where a payload is started: a job, a task of an array, or this machine. Sizes are what is asked for.

    Args:
        activation: How its environment is entered, and its Python.
        nodes: How many nodes it has.
        cpus: CPUs on each; None if only Slurm knows (`--exclusive`, or nobody says).
        gpus: GPUs on each; None if nobody has looked, on this machine.
        mem_mib: Memory on each, MiB; None if only Slurm, or this machine, knows.
        is_slurm: Whether it is in a job; if not, it is this machine.
    """

    activation: Activation
    nodes: int = 1
    cpus: int | None = None
    gpus: int | None = None
    mem_mib: int | None = None
    is_slurm: bool = True

    @classmethod
    def of_job(cls, activation: Activation, request: JobRequest) -> Place:
        """In the job that a request asks for, or in each task of such an array."""
        cpus = _cpus(request)
        return cls(activation, request.nodes, cpus, request.gpus_per_node, _mem_mib(request, cpus))

    @classmethod
    def here(cls, python: str, cpus: int | None = None) -> Place:
        """On this machine, with an interpreter of it."""
        return cls(Activation((), python, "this machine"), cpus=cpus, is_slurm=False)


@dataclass(frozen=True)
class Requirements:
    """What a launcher needs of a job.

    Args:
        options: Options of sbatch, as `extra_slurm_opts` has them: a layer above what is built in, and below whatever a
            user says anywhere.
        refusals: Why it cannot start this payload there, each with the value that is wrong; nothing is uploaded then.
        packages: What the payload's environment has to have, as pip calls it. Nothing is uploaded for a lock file
            without one; what has no lock is looked at on the node.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))


@dataclass(frozen=True)
class KeptCluster:
    """A cluster that a session keeps for all steps that ask for the same one. Sizes are of each node.

    Args:
        hook: What brings it up and takes it down, in a step of its own.
        nodes: Nodes.
        cpus: CPUs.
        mem_mib: Memory, MiB; 0 for the part that goes with the CPUs.
        gpus: GPUs.
    """

    hook: Hook
    nodes: int = 1
    cpus: int = 1
    mem_mib: int = 0
    gpus: int = 0


@dataclass(frozen=True)
class LaunchPlan:
    """What is done on the first node of the allocation, in the working directory.

    Args:
        setup: Lines of bash to run before, already quoted.
        command: The program and its arguments.
        hooks: What is done around it; the first begins first, and ends last.
        cluster: What is to be there before, where it is a step of a session; elsewhere the hooks do without.
    """

    setup: tuple[str, ...]
    command: tuple[str, ...]
    hooks: tuple[Hook, ...] = ()
    cluster: KeptCluster | None = None

    def in_scratch(self, scratch: Scratch | None) -> LaunchPlan:
        """The same in a directory of the node, if there is to be one; what a launcher does, it does within."""
        return replace(self, hooks=(scratch.hook(), *self.hooks)) if scratch else self


Planner = Callable[[Payload, Place], LaunchPlan]
"""A launcher's `plan`."""


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


def direct_plan(payload: Payload, place: Place) -> LaunchPlan:
    """Run the payload itself, once, with the environment active."""
    return LaunchPlan(place.activation.setup, payload_command(payload, place.activation))


def launch_script(plan: LaunchPlan) -> str:
    """What the batch script has in front: the hooks, how they and the payload are run, and the function `launch`.

    Raises:
        InvalidRequestError: Two hooks have the same name.
    """
    return "\n".join((_hooks(plan.hooks), _file("wait.sh"), _file("pause.sh"), _file("payload.sh"), *_launch(plan)))


def launch_in_job(
    planner: Planner, payload: Payload, activation: Activation, request: JobRequest, scratch: Scratch | None
) -> str:
    """The same for a payload in its job, or in each task of its array.

    Args:
        planner: What says how it is started.
        payload: The payload.
        activation: How its environment is entered.
        request: What is asked of Slurm.
        scratch: The directory of the node that it works in, if there is to be one.

    Raises:
        InvalidRequestError: Two hooks have the same name, or the planner refuses.
    """
    return launch_script(planner(payload, Place.of_job(activation, request)).in_scratch(scratch))


def script_here(plan: LaunchPlan, directory: str) -> str:
    """What bash runs on this machine.

    Args:
        plan: How the payload is started.
        directory: With `work/` and `env.sh`, as a run directory on a cluster.

    Raises:
        InvalidRequestError: Two hooks have the same name.
    """
    head = f"run_directory={quote(directory)}\nplace=$run_directory\nforwarded_signals="
    # Without hooks nothing has to follow: the payload takes the place of the shell.
    return "\n".join((head, launch_script(plan), _file("here.sh") if plan.hooks else "launch"))


def _hooks(hooks: Sequence[Hook]) -> str:
    """What stands in front of `payload.sh`: which hooks there are, and each."""
    names = [hook.name for hook in hooks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequestError(f"Two hooks of the payload are called {twice!r}", hint="Rename one of them.")
    return "\n".join((f"hooks=({' '.join(names)})", *(hook.text() for hook in hooks)))


def _launch(plan: LaunchPlan) -> tuple[str, ...]:
    lines = (
        "trap refuse_success EXIT",
        "enter_place || exit 74",
        "enter_hooks || exit",
        *plan.setup,
        # Most batch scripts begin with `cd $SLURM_SUBMIT_DIR`, which is the same for all tasks of an array.
        'export SLURM_SUBMIT_DIR="$PWD"',
        'set -- "$run_directory" "$place"',
        "restore_login",
        'read_variables "$@" || exit 74',
        f"exec {' '.join(map(quote, plan.command))}",
    )
    return ("launch() {", *(f"    {line}" for line in lines), "}")


def _file(name: str) -> str:
    return shell_file("dagster_slurm.launchers", name).rstrip("\n")


def _cpus(request: JobRequest) -> int | None:
    if request.cpus_per_task is None or "exclusive" in request.options:
        return None
    tasks = str(request.options.get("ntasks-per-node", 1))
    return request.cpus_per_task * int(tasks) if tasks.isdecimal() else None


def _mem_mib(request: JobRequest, cpus: int | None) -> int | None:
    if request.mem_per_cpu_mib is not None:
        return request.mem_per_cpu_mib * cpus if cpus is not None else None
    # `--mem=0` is all that the node has.
    return request.mem_mib or None


def nodes_hook(
    name: str,
    file: str | Path,
    place: Place,
    values: Mapping[str, str | Sequence[str]],
    functions: Mapping[str, Sequence[str]] | None = None,
    more: Sequence[str] = (),
) -> Hook:
    """A hook over `nodes.sh`, which starts a task on every node.

    Args:
        name: The hook's name.
        file: Its shell file, which stands behind `nodes.sh` and uses it; a name without a directory is one of ours.
        place: Where; `NAME_setup` enters its environment on each node, and `NAME_here` says whether it is this machine.
        values: What the shell file reads, as for `Hook`.
        functions: Bodies of more functions, lines of bash, quoted already, by what follows `NAME_` in their names.
        more: Other shell files of ours that it uses.
    """
    bodies = {"setup": place.activation.setup, **(functions or {})}
    shell = "\n".join(
        (
            *(_function(f"{name}_{each}", lines) for each, lines in bodies.items()),
            *(shell_file("dagster_slurm.launchers", each) for each in ("usage.sh", "pause.sh", "nodes.sh", *more)),
            shell_file("dagster_slurm.launchers", file) if isinstance(file, str) else file.read_text("utf-8"),
        )
    )
    return Hook(name, shell, {**values, "here": "" if place.is_slurm else "yes"})


def _function(name: str, lines: Sequence[str]) -> str:
    # A function of bash has to do something.
    return "\n".join((f"{name}() {{", *(lines or (":",)), "}"))


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
    return "\n".join(f"{name}={quoted(value)}" for name, value in values.items())


# What 1.22 has here, and is in `dagster_slurm` itself.
_PUBLIC = ("BashLauncher", "ComputeLauncher", "RayLauncher", "RayPortConfig", "SparkLauncher")


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("dagster_slurm"), name)
