"""The allocation that the calls of a run, or of many, share."""

from __future__ import annotations

import enum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from dagster import ConfigurableResource
from pydantic import ConfigDict, Field, field_validator

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.resources import LAUNCHPAD, NamedFields, NotNegative, Positive
from dagster_slurm.resources.slurm import SlurmResource, without_built_in_memory

if TYPE_CHECKING:
    from dagster_slurm.session import SessionSpec

_IDLE_SECONDS = 300
_IDLE_SECONDS_NAMED = 1800
_LONGEST_NAME = 64
_OPTIONS = (
    *("cpus_per_task", "mem", "mem_per_cpu", "gpus_per_node", "partition", "qos", "account", "reservation"),
    *("constraint", "nodelist", "exclude", "time_min"),
)


class SlurmAllocationScope(str, enum.Enum):
    """What has an allocation."""

    ASSET = "asset"
    RUN = "run"


class _Shape(NamedFields, ConfigurableResource[Any]):
    """What is asked of Slurm for an allocation. What is left out is that of `SlurmResource.queue`."""

    model_config = ConfigDict(extra="forbid")

    num_nodes: Positive = Field(default=2, description="Number of nodes.")
    time_limit: str = Field(default="04:00:00", description="Walltime, in one of the forms of sbatch's `--time`.")
    time_min: str | None = Field(default=None, description="The least walltime, for a start in a gap of the queue.")
    cpus_per_task: Positive | None = Field(default=None, description="CPUs of each node.")
    mem: str | None = Field(default=None, description="Memory of each node; `M` is MiB.")
    mem_per_cpu: str | None = Field(default=None, description="Memory for each CPU, in place of `mem`.")
    gpus_per_node: NotNegative | None = Field(default=None, description="GPUs of each node.")
    partition: str | None = Field(default=None, description="Partition.")
    qos: str | None = Field(default=None, description="Quality of service.")
    account: str | None = Field(default=None, description="Account to charge.")
    reservation: str | None = Field(default=None, description="Reservation.")
    constraint: str | None = Field(default=None, description="Features that the nodes have to have.")
    nodelist: str | None = Field(default=None, description="Nodes to use.")
    exclude: str | None = Field(default=None, description="Nodes not to use.")
    extra_sbatch_directives: list[str] = Field(
        default=[], description="Any other options of sbatch, as they stand behind `#SBATCH`: `--licenses=solver`."
    )
    relay: bool = Field(
        default=False,
        description="Queues the next allocation before the walltime of this one ends, so that there is no gap.",
    )
    relay_lead_minutes: float | None = Field(
        default=None,
        description="How long before the end of the walltime the next allocation is queued, with `relay`; "
        "by default a quarter of the walltime, at most 60.",
        gt=0,
    )

    def _spec(self, slurm: SlurmResource, *, name: str, at_once: int, idle_seconds: int) -> SessionSpec:
        """The session as plain values.

        Raises:
            InvalidRequestError: An option is wrong.
        """
        from dagster_slurm.session import SessionSpec  # noqa: PLC0415 - a job of its own does without
        from dagster_slurm.session.relay import lead_seconds  # noqa: PLC0415
        from dagster_slurm.slurm.request import merge_named  # noqa: PLC0415

        more = self._more()
        if more.get("no-kill") not in (None, "off"):
            raise InvalidRequestError(
                "A session's allocation cannot have --no-kill",
                hint="Slurm would call a step that has lost a node a success: see docs/sessions.md, a node that fails.",
            )
        layers = without_built_in_memory({**slurm.option_layers(), "directives": more, "session": self._said()})
        request = merge_named(layers)[0]
        relay_seconds = lead_seconds(request.time_limit_seconds, self.relay_lead_minutes) if self.relay else 0
        return SessionSpec(request, name, at_once, idle_seconds, relay_seconds)

    def _more(self) -> dict[str, object]:
        from dagster_slurm.slurm.sbatch_lines import MAGIC, read_sbatch_lines  # noqa: PLC0415

        lines = "".join(f"{MAGIC} {each.removeprefix(MAGIC).strip()}\n" for each in self.extra_sbatch_directives)
        return dict(read_sbatch_lines(f"#!/bin/sh\n{lines}", "extra_sbatch_directives").options) if lines else {}

    def _said(self) -> dict[str, object]:
        said = {name: value for name in _OPTIONS if (value := getattr(self, name)) not in (None, "")}
        # Nobody requeues it: a step that was interrupted is tried again by its own rules. A signal is for payloads, and
        # so is what a queue says of jobs that outlive a node.
        own = {"no_requeue": True, "signal_before_timeout": None, "no_kill": None}
        return {"num_nodes": self.num_nodes, "time_limit": self.time_limit, **said, **own}


class SlurmSessionResource(_Shape):
    """One allocation of Slurm for many calls, acquired on first use: of a run or, with a name, of many runs.

    A field that is left out is taken from `SlurmResource.queue`. Sizes are of each node, as for a job.
    """

    slurm: Annotated[SlurmResource | None, LAUNCHPAD] = Field(
        default=None, description="The cluster; that of the ComputeResource by default."
    )
    max_concurrent_jobs: Positive = Field(default=10, description="How many steps run at once.")
    idle_timeout_seconds: Positive | None = Field(
        default=None,
        description="After how long without a step, and without a process of a run that uses it, the allocation ends; "
        "by default 300, and 1800 with a name.",
    )
    name: str | None = Field(default=None, description="Shares the allocation between runs and processes.")
    max_queue_hours: float | None = Field(
        default=None, description="Give up a step when it has waited longer than this.", gt=0
    )

    @field_validator("name")
    @classmethod
    def _refuse_names(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or len(value) > _LONGEST_NAME):
            raise ValueError(f"Input should be a name of 1 to {_LONGEST_NAME} characters")
        return value

    def spec(self, slurm: SlurmResource) -> SessionSpec:
        """The session as plain values.

        Args:
            slurm: The cluster, whose queue has what is left out here.

        Raises:
            InvalidRequestError: An option is wrong.
        """
        idle = self.idle_timeout_seconds or (_IDLE_SECONDS_NAMED if self.name else _IDLE_SECONDS)
        return self._spec(slurm, name=self.name or "", at_once=self.max_concurrent_jobs, idle_seconds=idle)


class SlurmRunAllocationConfig(_Shape):
    """The allocation of a run, for `allocation_scope="run"`."""

    num_nodes: Positive = Field(default=1, description="Number of nodes.")
    cleanup_policy: str = Field(
        default="after_run", description="When it ends; `after_run` is the only policy: with the run, or when idle."
    )

    @field_validator("cleanup_policy")
    @classmethod
    def _refuse_policies(cls, value: str) -> str:
        if value != "after_run":
            raise ValueError("Input should be 'after_run'")
        return value

    def spec(self, slurm: SlurmResource) -> SessionSpec:
        """As `SlurmSessionResource.spec`; what fits runs at once."""
        return self._spec(slurm, name="", at_once=_MANY, idle_seconds=_IDLE_SECONDS)


_MANY = 1000
_FORMER = ("SlurmAllocation", "SlurmAllocationEnded", "SlurmStepDrained", "SlurmStepExecutionResult")


def __getattr__(name: str) -> Any:
    # What code of 1.22 imports from here.
    if name in (*_FORMER, "SlurmWorkerAllocationConfig"):
        return getattr(import_module("dagster_slurm.compat.refused"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
