"""Ray: a cluster over the nodes of the job, up before the payload and down after it."""

from __future__ import annotations

import dataclasses
from importlib import resources
from typing import Annotated, Any

from dagster import ConfigurableResource
from pydantic import ConfigDict, Field

from dagster_slurm.launchers import LaunchPlan, Payload, Place, Requirements, direct_plan, nodes_hook
from dagster_slurm.resources.field_types import choice_of
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.slurm.request import JobRequest

_WITHOUT_EFFECT = ("redis_password", "worker_startup_delay", "use_head_ip", "worker_cpu_bind")
_FIXED_ONLY = ("ray_port", "dashboard_port", "port_config")


class RayPortConfig(ConfigurableResource[Any]):
    """Fixed ports, called as the options of `ray start`; with `port_strategy="fixed"`. None: Ray takes a free one."""

    model_config = ConfigDict(extra="forbid")

    node_manager_port: int | None = None
    object_manager_port: int | None = None
    ray_client_server_port: int | None = None
    dashboard_agent_listen_port: int | None = None
    dashboard_agent_grpc_port: int | None = None
    runtime_env_agent_port: int | None = None
    metrics_export_port: int | None = None
    min_worker_port: int | None = None
    max_worker_port: int | None = None


class RayLauncher(ComputeLauncher):
    """Runs the payload beside a Ray cluster of all nodes of the job; in mode `local`, of this machine.

    The payload finds it in `RAY_ADDRESS`: `ray.init()` needs no argument. It is started when all nodes are alive in
    Ray's own table, and the cluster is gone when it has ended.
    """

    num_gpus_per_node: int = Field(default=0, ge=0, description="GPUs to ask Slurm for on each node.")
    ray_address: str | None = Field(
        default=None, description="A Ray cluster that is there already, instead of one of the job's own."
    )
    object_store_memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="Ray's object store on each node, GiB; by default 0.3 of the job's memory.",
    )
    head_startup_timeout: int = Field(default=120, description="Seconds until all nodes have to be there.")
    grace_period: int = Field(default=5, ge=0, le=20, description="Seconds that Ray has to end before it is killed.")
    pre_start_commands: list[str] = Field(
        default=[], description="Lines of bash on each node before `ray start`, in the payload's environment."
    )
    ray_start_args: list[str] = Field(default=[], description="Further arguments of `ray start`, on each node.")
    port_strategy: Annotated[str, choice_of("random", "hash_jobid", "fixed")] = Field(
        default="random",
        description="`random`: each part of Ray binds a free port. `hash_jobid`: ports from a range that the job's id "
        "gives. `fixed`: `ray_port`, `dashboard_port` and `port_config`.",
    )
    ray_port: int = Field(default=6379, description='The port of Ray\'s head, with `port_strategy="fixed"`.')
    dashboard_port: int = Field(default=8265, description='That of the dashboard, with `port_strategy="fixed"`.')
    port_config: RayPortConfig | None = Field(default=None, description='Others, with `port_strategy="fixed"`.')
    dashboard_host: str | None = Field(
        default=None, description="The address that the dashboard binds; by default the head's, where Ray knows tokens."
    )
    network_interface: str | None = Field(
        default=None, description="The interface whose address Ray takes, such as `ib0`; by default the node's name is."
    )
    node_ip_address_command: str | None = Field(
        default=None, description="Bash that prints the address of the node on which it runs."
    )
    redis_password: str | None = Field(default=None, description="Without effect: a token guards the cluster.")
    worker_startup_delay: float | None = Field(default=None, description="Without effect: nodes wait for the head.")
    use_head_ip: bool | None = Field(default=None, description="Without effect: the address is always one.")
    worker_cpu_bind: str | None = Field(default=None, description="Without effect: Ray's processes are not bound.")

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        values = {
            "address": self.ray_address or "",
            "timeout": str(self.head_startup_timeout),
            "grace": str(self.grace_period),
            # In a job its nodes know better: what is said may be more than one task's.
            "cpus": "" if place.is_slurm or place.cpus is None else str(place.cpus),
            "gpus": str(place.gpus or self.num_gpus_per_node),
            "store_mib": "" if self.object_store_memory_gb is None else str(int(self.object_store_memory_gb * 1024)),
            "interface": self.network_interface or "",
            "address_command": self.node_ip_address_command or "",
            "dashboard_host": self.dashboard_host or "",
            "ports": self.port_strategy,
            "fixed": self._fixed_ports(),
            "start_args": self.ray_start_args,
            "python": (*place.activation.wrapper, place.activation.python),
            "program": resources.files("dagster_slurm.launchers").joinpath("ray_program.py").read_text("utf-8"),
            "ignored": self._ignored(),
        }
        hook = nodes_hook("ray", "ray.sh", place, values, {"pre_start": self._pre_start()})
        plan = direct_plan(payload, place)
        return dataclasses.replace(plan, hooks=(*plan.hooks, hook))

    def requirements(self, request: JobRequest | None) -> Requirements:
        refusals = []
        if self.network_interface and self.node_ip_address_command:
            refusals.append("network_interface and node_ip_address_command both say what the address of a node is")
        if self.head_startup_timeout < 1:
            refusals.append(f"head_startup_timeout is {self.head_startup_timeout}, at least 1 is possible")
        options: dict[str, object] = {}
        if request is not None and self.ray_address is None:
            if self.num_gpus_per_node:
                options["gpus_per_node"] = self.num_gpus_per_node
            if request.nodes > 1:
                # Or Slurm ends the job with the first node that it loses; Ray goes on without.
                options["no_kill"] = True
        return Requirements(options, tuple(refusals), packages=("ray",))

    def _pre_start(self) -> tuple[str, ...]:
        """Each line has to succeed."""
        return tuple(f"{{ {line}\n}} || return" for line in self.pre_start_commands)

    def _fixed_ports(self) -> tuple[str, ...]:
        ports = {"port": self.ray_port, "dashboard_port": self.dashboard_port}
        given = self.port_config or RayPortConfig()
        ports |= {name: getattr(given, name) for name in RayPortConfig.model_fields}
        return tuple(f"--{name.replace('_', '-')}={port}" for name, port in ports.items() if port is not None)

    def _ignored(self) -> str:
        """What is said and has no effect, as a warning."""
        names = [name for name in _WITHOUT_EFFECT if getattr(self, name) is not None]
        if self.port_strategy != "fixed":
            names += [name for name in _FIXED_ONLY if name in self.model_fields_set]
        return f"RayLauncher: {', '.join(names)} without effect" if names else ""
