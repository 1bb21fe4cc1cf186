"""What one call asks for, as one value: everything that has a say is merged in it, and it knows who said what."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, TypeVar, cast

from dagster_slurm.environments import Activation, ClusterPython, Provider
from dagster_slurm.errors import DagsterSlurmError, InvalidRequestError, UnknownArgumentError
from dagster_slurm.job.batch_script import batch_script, env_file
from dagster_slurm.job.retrying import Chain, RetryRules
from dagster_slurm.launchers import (
    Payload,
    Place,
    Planner,
    as_payload,
    direct_plan,
    launch_in_job,
    script_here,
    work_files,
)
from dagster_slurm.launchers.payload import ExtraFiles, PathLike
from dagster_slurm.pipes.partition_results import MetadataOf, outcome_metadata
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.arrays import array_option
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging import DataOptions, Staging, plan_staging
from dagster_slurm.text import as_written, counted, did_you_mean
from dagster_slurm.transport import TreeEntry

CALL, LAUNCHPAD, METADATA, RESOURCE = "call", "launchpad", "asset metadata", "resource"
SCRIPT, LAUNCHER, BUILT_IN = "script", "launcher", "built-in"
"""Who may say something; the first that does wins."""
# Of each task of an array.
_MOST_LINKS = 16

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Said:
    """What holds for a setting, and who says so.

    Args:
        value: What holds.
        source: One of `CALL` to `BUILT_IN`.
        parts: The same for parts of it that others may say, by their names.
    """

    value: Any
    source: str
    parts: Mapping[str, Said] = field(default_factory=dict)


@dataclass(frozen=True)
class Tasks:
    """The partitions of `run_partitions`, as the tasks of one job array.

    Args:
        count: How many there are.
        max_parallel: How many run at once; None for no limit but the cluster's.

    Raises:
        InvalidRequestError: One is not a positive number.
    """

    count: int
    max_parallel: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no number of tasks."""
        for name, number in (("partitions", self.count), ("max_parallel", self.max_parallel)):
            if number is not None and (isinstance(number, bool) or number < 1):
                raise InvalidRequestError(f"{name} is {as_written(number)}", hint="Give a number from 1 on, or None.")

    @property
    def option(self) -> str:
        """What `--array` is given for all of them."""
        return self.option_of(self.count)

    def option_of(self, count: int) -> str:
        """What `--array` is given for so many of them."""
        return array_option(count, self.max_parallel)


class PayloadOptions(TypedDict, total=False):
    """What may be said of a payload.

    Attributes:
        extras: Values for it, found in its Pipes context.
        plan: How to start it; a launcher's `plan`.
        extra_env: Its environment variables.
        extra_files: Files and directories to put beside it.
        data: What it reads and leaves, besides its messages.
        name: Tells this call from others in the same step.
        chain: Whether, and when, the work goes on in a further attempt.
    """

    extras: Mapping[str, Any] | None
    plan: Planner
    extra_env: Mapping[str, str] | None
    extra_files: ExtraFiles | None
    data: DataOptions | None
    name: str | None
    chain: Chain


class JobOptions(PayloadOptions, total=False):
    """What may be said of a payload that is a job, besides `PayloadOptions` and what is asked of Slurm.

    Attributes:
        force_env_push: Install its environment anew, whatever is there.
        metadata: What the job adds to the metadata of the results.
        rules: Which ends are tried again within the call, and how; None for none.
    """

    force_env_push: bool
    metadata: MetadataOf
    rules: RetryRules | None


@dataclass(frozen=True)
class WorkSpec:
    """What is to be run, checked as far as this machine can tell. Made by `WorkSpec.of`.

    Args:
        payload: What to start.
        files: What lies in its working directory: the payload, and then what lies beside it.
        staging: What it reads and leaves.
        plan: How to start it.
        extras: Values for it, found in its Pipes context.
        extra_env: Its environment variables.
        name: Tells the call from others in the same step.
        tasks: The partitions it is run for, one by one; None for `run`.
        request: What to ask Slurm for.
        environment: What it runs in on a cluster.
        force_env_push: Whether its environment is installed anew.
        rules: Which ends are tried again within the call; None for none.
        chain: Whether, and when, the work goes on in a further job.
        metadata: What the job adds to the metadata of the results.
        said: The settings that can be said in more than one place, by name, with who says what holds.
        option_sources: Who says so, for each option of sbatch.
        max_node_hours: The most that it may cost; None for no limit.
        note: What of the payload's `#SBATCH` lines is not applied, in a sentence; empty for nothing.

    Raises:
        InvalidRequestError: It costs more than it may, or has variables that no shell takes.
    """

    payload: Payload
    files: tuple[TreeEntry, ...]
    staging: Staging
    plan: Planner = direct_plan
    extras: Mapping[str, Any] | None = None
    extra_env: Mapping[str, str] | None = None
    name: str | None = None
    tasks: Tasks | None = None
    request: JobRequest = field(default_factory=JobRequest)
    environment: Provider = field(default_factory=ClusterPython)
    force_env_push: bool = False
    rules: RetryRules | None = None
    chain: Chain = field(default_factory=Chain)
    metadata: MetadataOf = outcome_metadata
    said: Mapping[str, Said] = field(default_factory=dict)
    option_sources: Mapping[str, str] = field(default_factory=dict)
    max_node_hours: float | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        payload: Payload | PathLike,
        *,
        extra_files: ExtraFiles | None = None,
        data: DataOptions | None = None,
        **facts: Any,
    ) -> WorkSpec:
        """Look for the payload and its files.

        Args:
            payload: The payload, or what `payload_from_path` makes one of.
            extra_files: Files and directories to put beside it.
            data: What it reads and leaves.
            facts: The other fields.

        Raises:
            PayloadNotFoundError: A file is not there.
            InvalidRequestError: It cannot be run like this.
        """
        payload = as_payload(payload)
        files = tuple(work_files(payload, extra_files))
        staging = plan_staging(data or DataOptions(), uploaded=[entry.name for entry in files])
        return cls(payload, files, staging, **facts)

    def __post_init__(self) -> None:
        """Refuse what can be refused without a cluster."""
        if self.extra_env:
            object.__setattr__(self, "extra_env", _variables(self.extra_env))
            env_file(self.extra_env)
        for name, value in (self.extras or {}).items():
            try:
                json.dumps(value)
            except (TypeError, ValueError, RecursionError) as error:
                raise InvalidRequestError(
                    f"The value of {name!r} in extras cannot be sent: {error}", hint="Values have to be JSON's."
                ) from None
        affordable(self.request, self.max_node_hours, tasks=self.tasks.count if self.tasks else 1)

    def at(self, absolute: Callable[[str, str], str]) -> WorkSpec:
        """The same with a payload whose path on the cluster is absolute.

        Args:
            absolute: As `SlurmCluster.absolute`.
        """
        if not self.payload.has_path_there:
            return self
        program = absolute(self.payload.program, "remote_payload_path")
        return replace(self, payload=replace(self.payload, program=program))

    def beside_payload(self, module: str) -> str:
        """What to do about a module that lies beside the payload on this machine; empty if it does not."""
        source, top = self.payload.source, module.partition(".")[0]
        beside = [] if source is None else [source.parent / f"{top}.py", source.parent / top]
        found = next((each for each in beside if each.exists() and each != source), None)
        if found is None or any(entry.name.partition("/")[0] == found.name for entry in self.files):
            return ""
        return f"{found.name} lies beside the payload on this machine, and is not sent: name it in `extra_files`."

    def batch_script(
        self, directory: RunDirectory, activation: Activation, request: JobRequest, *, array: str | None = None
    ) -> str:
        """What sbatch is given for it.

        Args:
            directory: Where the launch lies.
            activation: How its environment is entered.
            request: What to ask Slurm for; after a retry more than `request`.
            array: What `--array` is given; None for a single job.
        """
        launch = launch_in_job(self.plan, self.payload, activation, request, self.staging.scratch)
        is_linked = array is not None and self.is_linked
        return batch_script(request, directory=directory, launch=launch, array=array, is_linked=is_linked)

    @property
    def is_linked(self) -> bool:
        """Whether the tasks' links to what they share come with the run directory, and are not made on the nodes."""
        # Inputs are placed in a directory that is there, and many links of each task would be a large tree.
        return not self.staging.inputs.names and len(self.files) <= _MOST_LINKS

    def script_here(self, directory: str, python: str) -> str:
        """What bash runs for it on this machine, in a directory that has `work` and `env.sh`."""
        plan = self.plan(self.payload, Place.here(python, cpus_here()))
        return script_here(plan.in_scratch(self.staging.scratch), directory)


def cpus_here() -> int:
    """How many CPUs this process may use; where that is not known (macOS), how many the machine has."""
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return len(usable(0))


def _variables(values: Mapping[str, object]) -> dict[str, str]:
    """Variables as text; numbers and paths are what people mean by them.

    Raises:
        InvalidRequestError: One is something else.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float, os.PathLike)):
            raise InvalidRequestError(
                f"The variable {name!r} in extra_env is {as_written(value)}", hint="Give a text, a number or a path."
            )
        found[name] = str(os.fspath(value)) if isinstance(value, os.PathLike) else str(value)
    return found


def affordable(request: JobRequest, max_node_hours: float | None, *, tasks: int = 1) -> JobRequest:
    """The request, if it does not ask for more than is allowed, all tasks of an array taken together.

    Raises:
        InvalidRequestError: It does, or has no walltime that tells.
    """
    if max_node_hours is None:
        return request
    asked = None if request.node_hours is None else request.node_hours * tasks
    if asked is not None and asked <= max_node_hours:
        return request
    what = counted(asked, "node-hour", "g") if asked is not None else "no walltime, so that nobody knows what it costs"
    nodes = counted(request.nodes, "node")
    times = f"{counted(tasks, 'task')} of {nodes}" if tasks > 1 else nodes
    raise InvalidRequestError(
        f"The job asks for {what} ({times}), and max_node_hours is {max_node_hours:g}",
        hint="Lower `num_nodes` or `time_limit`, or raise `max_node_hours` of the ComputeResource.",
    )


Former = Callable[[str, Sequence[Any], Mapping[str, Any]], tuple[dict[str, Any], dict[str, Any]]]
"""Of a method's name and all that it is given: what of it is ours or nobody's, and what the rest comes to."""


def takes(options: type, *, in_step: bool = True, former: Former | None = None) -> Callable[[Method], Method]:
    """Let a public method take the items of a `TypedDict` by name, and refuse any other name with those there are.

    Its signature and its docstring show them, to `help` and to whatever completes names; its type says `Unpack` of the
    same. What it raises of our errors leaves it as Dagster's failure, unless it is called outside of steps.

    Args:
        options: The `TypedDict`.
        in_step: Whether it is called in steps alone.
        former: What is asked about other arguments before they are refused.
    """

    def decorate(method: Method) -> Method:
        own = inspect.signature(method)
        listed = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        listed += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_written(hint))
            for name, hint in options.__annotations__.items()
        ]
        names = [each.name for each in listed[1:]]
        by_position = sum(each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for each in own.parameters.values())

        @functools.wraps(method)
        def checked(*args: Any, **given: Any) -> Any:
            try:
                meant: Mapping[str, Any] = {}
                if former and (len(args) > by_position or not given.keys() <= set(names)):
                    given, meant = former(method.__name__, args, given)
                for name in given:
                    if name not in names:
                        raise _unknown(method.__qualname__, name, names)
                return method(*args, **given, **meant)
            except DagsterSlurmError as error:
                if not in_step:
                    raise
                from dagster_slurm.pipes.step import of_call  # noqa: PLC0415 - for failures only

                raise of_call(error) from error

        checked.__signature__ = own.replace(parameters=listed)  # type: ignore[attr-defined]
        checked.__doc__ = f"{inspect.getdoc(method)}\n\n{inspect.getdoc(options)}"
        return cast(Method, checked)

    return decorate


def _written(hint: Any) -> Any:
    return getattr(hint, "__forward_arg__", hint)


def _unknown(method: str, name: str, names: list[str]) -> UnknownArgumentError:
    takes = f"{did_you_mean(name, names)}It takes {', '.join(names)}."
    return UnknownArgumentError(f"{method}() has no argument {name!r}", hint=takes)
