"""The cluster of Ray or Spark that a session keeps between its steps, as it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from dagster import ConfigurableResource
from pydantic import AfterValidator, ConfigDict, Field

from dagster_slurm.launchers import Hook, KeptCluster, LaunchPlan, Place, nodes_hook
from dagster_slurm.resources import NamedFields, NotNegative, Positive
from dagster_slurm.slurm.quantities import parse_memory_mib


def _memory(value: str) -> str:
    parse_memory_mib(value)
    return value


class SessionCluster(NamedFields, ConfigurableResource[Any]):
    """A cluster that a session keeps: started by the first step that asks for it, used by all that ask for the same.

    Two ask for the same where all fields of their launchers, and the environment, are the same. The step's own options
    are for its driver alone, which runs beside the cluster's first node. Sizes are of each node.
    """

    model_config = ConfigDict(extra="forbid")

    num_nodes: Positive = Field(default=1, description="Number of nodes.")
    cpus_per_task: Positive = Field(default=1, description="CPUs of each node.")
    mem: Annotated[str, AfterValidator(_memory)] = Field(description="Memory of each node; `M` is MiB.")
    gpus_per_node: NotNegative = Field(default=0, description="GPUs of each node.")


def beside_cluster(
    plan: LaunchPlan,
    place: Place,
    name: str,
    values: Mapping[str, str | Sequence[str]],
    functions: Mapping[str, Sequence[str]] | None,
    kept: SessionCluster | None,
) -> LaunchPlan:
    """A plan with a hook over `nodes.sh`: a cluster of its own or, in a session that keeps one, that.

    Args:
        plan: What is started beside it.
        place: Where.
        name: The hook's name; that of its shell file, too.
        values: As for `nodes_hook`.
        functions: The same.
        kept: What a session keeps; None if each step has its own.
    """

    def hook(**more: str) -> Hook:
        files = ("kept.sh",) if more.get("shared") == "yes" else ()
        return nodes_hook(name, f"{name}.sh", place, {**values, **more}, functions, files)

    if kept is None or not place.is_slurm:
        return replace(plan, hooks=(*plan.hooks, hook()))
    cluster = KeptCluster(
        hook(shared="keeps", **({"gpus": str(kept.gpus_per_node)} if "gpus" in values else {})),
        kept.num_nodes,
        kept.cpus_per_task,
        parse_memory_mib(kept.mem),
        kept.gpus_per_node,
    )
    return replace(plan, hooks=(*plan.hooks, hook(shared="yes")), cluster=cluster)
