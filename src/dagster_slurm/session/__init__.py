"""Sessions: one allocation of Slurm that executes the steps of many assets.

The allocation is a job like others, whose payload is a dispatcher (dispatch.sh); a step is an attempt at its own piece
of work that is asked for in the allocation's mailbox (mail.sh) in the place of sbatch. docs/adr/0025 has the reasons.
Here is what is pure: what a session is, and what a step takes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.run_directory import LaunchKey, RunDirectory, short_digest
from dagster_slurm.slurm.options import setting_names
from dagster_slurm.slurm.quantities import format_memory, format_time_limit
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.text import counted

STEP_OPTIONS = frozenset(
    {"nodes", "cpus-per-task", "mem", "mem-per-cpu", "gpus-per-node", "time", "max-queue-hours", "ntasks-per-node"}
)
"""What a step may be given of its own; everything else is the allocation's."""

_SIZES = frozenset(
    {"exclusive", "gpus", "gpus-per-socket", "gpus-per-task", "gres", "mem-per-gpu", "ntasks", "tres-per-task"}
)
NAMED_SESSIONS = "sessions"
"""The room of those with a name among the runs."""


@dataclass(frozen=True)
class SessionSpec:
    """A session, as it is asked for.

    Args:
        request: What is asked of Slurm for its allocation.
        name: By which runs and processes share it; empty for that of one run.
        max_concurrent_jobs: How many steps run at once.
        idle_timeout_seconds: After how long without a step or a lease the allocation ends.
        relay_seconds: How long before its walltime another one is queued to follow it; 0 for none.
    """

    request: JobRequest
    name: str = ""
    max_concurrent_jobs: int = 10
    idle_timeout_seconds: int = 300
    relay_seconds: int = 0

    @property
    def title(self) -> str:
        """What people call it."""
        return f"session {self.name!r}" if self.name else "the run's session"

    @property
    def shape(self) -> str:
        """What makes two allocations the same, in words: the options of sbatch, and how many steps run at once."""
        options = (
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in self.request.sbatch_options().items()
        )
        return f"{' '.join(options)}, {counted(self.max_concurrent_jobs, 'step')} at once"

    def share_of_node(self, request: JobRequest) -> float:
        """How much of its nodes a step holds: of the CPUs, or of the memory or the GPUs if that is more."""
        has, asked = Share.of(self.request), Share.of(request)
        pairs = ((asked.cpus, has.cpus), (asked.mem_mib, has.mem_mib), (asked.gpus, has.gpus))
        return min(1.0, max(part / whole for part, whole in pairs if whole))

    def first_allocation(self, base: str, origin_run_id: str) -> RunDirectory:
        """Where its first allocation lies.

        Args:
            base: Absolute path of `remote_base`.
            origin_run_id: The run of an unnamed one.
        """
        if self.name:
            return LaunchKey(NAMED_SESSIONS, f"session-{self.name}", (), "session").first_attempt(base)
        return LaunchKey(origin_run_id, "session", (), short_digest(self.shape)).first_attempt(base)

    def refuse_step(self, share: Share, who: str = "The step") -> None:
        """Refuse a step that can never fit.

        Args:
            share: What it takes.
            who: What the message calls it.

        Raises:
            InvalidRequestError: It asks for more than the allocation has, or for longer than it lasts.
        """
        has = Share.of(self.request)
        asked = (
            ("nodes", share.nodes, has.nodes, str),
            ("CPUs on a node", share.cpus, has.cpus, str),
            ("memory on a node", share.mem_mib, has.mem_mib or None, format_memory),
            ("GPUs on a node", share.gpus, has.gpus, str),
            ("walltime", share.seconds, has.seconds or None, format_time_limit),
        )
        for what, wanted, there, shown in asked:
            if there is not None and wanted > there:
                raise InvalidRequestError(
                    f"{who} asks for {shown(wanted)} {what}, and {self.title} has {shown(there)}",
                    hint="Ask for less, or give the SlurmSessionResource more.",
                )


@dataclass(frozen=True)
class Share:
    """What a step takes of its session; CPUs, memory and GPUs are of each node.

    Args:
        nodes: On how many nodes it runs.
        cpus: CPUs.
        mem_mib: Memory, MiB; 0 for the part that goes with the CPUs.
        gpus: GPUs.
        seconds: Its time limit; 0 for that of the allocation.
    """

    nodes: int = 1
    cpus: int = 1
    mem_mib: int = 0
    gpus: int = 0
    seconds: int = 0

    @classmethod
    def of(cls, request: JobRequest) -> Share:
        """What a request asks for."""
        tasks = str(request.options.get("ntasks-per-node", 1))
        cpus = (request.cpus_per_task or 1) * (int(tasks) if tasks.isdecimal() else 1)
        mem_mib = request.mem_per_cpu_mib * cpus if request.mem_per_cpu_mib else request.mem_mib
        return cls(request.nodes, cpus, mem_mib or 0, request.gpus_per_node, request.time_limit_seconds or 0)

    def line(self, elements: int = 0, at_once: int = 0) -> str:
        """The words of a request in the mailbox that say it, as dispatch.sh reads them.

        Args:
            elements: How many elements the step has; 0 for one that is a whole.
            at_once: How many of them run at once; 0 for no limit.
        """
        return f"{elements} {at_once} {self.nodes} {self.cpus} {self.mem_mib} {self.gpus} {self.seconds}"


def step_layers(
    layers: Mapping[str, Mapping[str, Any]], of_allocation: Sequence[str]
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """Of the options by who says them what is for a step.

    Args:
        layers: The options.
        of_allocation: Who speaks of the allocation as well: what is not for a step is its, there.

    Returns:
        The layers, and what others say that is the allocation's, as "NAME of the WHO": it is not applied.

    Raises:
        InvalidRequestError: One says how large a step is in a way that no step can be asked for.
    """
    found: dict[str, Mapping[str, Any]] = {}
    left: list[str] = []
    for who, layer in layers.items():
        names = setting_names(layer)
        found[who] = {key: layer[key] for key, name in names.items() if name in STEP_OPTIONS}
        if who in of_allocation:
            continue
        for key in sorted(layer.keys() - found[who].keys()):
            if layer[key] not in (None, False, "") and names[key] in _SIZES:
                raise InvalidRequestError(
                    f"{key!r} of the {who} cannot be asked for a step of a session",
                    hint=f"A step takes {', '.join(sorted(STEP_OPTIONS))}.",
                )
            left.append(f"{key} of the {who}")
    return found, left


def refuse_other_shape(spec: SessionSpec, found: str) -> None:
    """Refuse to share an allocation that somebody has asked for in another shape.

    Args:
        spec: What is asked for.
        found: The shape of the allocation that there is; empty if it is not known.

    Raises:
        InvalidRequestError: It is another.
    """
    if found and found != spec.shape:
        raise InvalidRequestError(
            f"{spec.title[0].upper()}{spec.title[1:]} has the shape {found!r}, and here it has {spec.shape!r}",
            hint="Give both the same fields, or one of them another name; `dagster-slurm sessions end NAME` ends it.",
        )


def session_file(allocation: RunDirectory, job_id: str, share: str) -> bytes:
    """The file `session` of a step's attempt, as mail.sh and look.sh read it."""
    return f"{allocation.relative} {job_id}\n{share}\n".encode()
