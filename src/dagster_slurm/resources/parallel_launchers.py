"""Launchers of many processes: MPI and torchrun start the payload as ranks, Ray and Spark a cluster beside it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Annotated, Any

from dagster import ConfigurableResource, EnvVar
from dagster_pipes import PipesDefaultMessageWriter, encode_param
from pydantic import AfterValidator, ConfigDict, Field

from dagster_slurm.launchers import LaunchPlan, Payload, Place, Requirements, direct_plan, ranks_plan
from dagster_slurm.resources import NamedFields, NotNegative, Positive, choice_of
from dagster_slurm.resources.launchers import BashLauncher, ComputeLauncher
from dagster_slurm.resources.session_cluster import SessionCluster, beside_cluster
from dagster_slurm.slurm.quantities import parse_memory_mib
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.text import counted

UNHEARD = encode_param({PipesDefaultMessageWriter.FILE_PATH_KEY: os.devnull})
"""Where the messages of all ranks but the first go: one rank reports, and every rank has the context."""


class MPILauncher(ComputeLauncher):
    """Runs the payload as ranks of one MPI world over all nodes; in mode `local`, with `mpirun` on this machine.

    Before the payload, a world is made and its ranks are counted: a way of starting that does not fit the library of
    MPI gives as many worlds of one rank, and exit code 0. A rank that fails ends the others.
    """

    mpi: Annotated[str, choice_of("auto", "pmix", "pmi2", "none", "mpirun")] = Field(
        default="auto",
        description="`mpirun`, or else `srun --mpi=` with that plugin; `auto` takes the first that brings up a world "
        "of all ranks. In mode `local` always `mpirun`.",
    )
    tasks_per_node: Positive | None = Field(
        default=None,
        description="Ranks on each node, each with the job's `cpus`; by default what the job's own options say, or 1.",
    )
    np: Positive | None = Field(default=None, description="Ranks in all, if not each node is to have as many.")
    startup_timeout: Positive = Field(default=60, description="Seconds in which a world has to come up.")

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        python = (*place.activation.wrapper, place.activation.python)
        values = {
            "mpi": self.mpi,
            "mpi_ranks": "" if self.np is None else str(self.np),
            "mpi_tasks": "" if self.tasks_per_node is None else str(self.tasks_per_node),
            "mpi_timeout": str(self.startup_timeout),
            "python": python,
        }
        helpers = ("mpi_world.py", "mpi_run.py")
        return ranks_plan(payload, place, "mpi.sh", values, unheard=UNHEARD, helpers=helpers, runner="mpi_run.py")

    def requirements(self, request: JobRequest | None) -> Requirements:
        if request is None:
            return Requirements(packages=("mpi4py",))
        asked = self._tasks(request.nodes)
        said = str(request.options.get("ntasks-per-node", asked or ""))
        refusals = []
        if asked and said.isdecimal() and int(said) < asked:
            refusals.append(f"it starts {counted(asked, 'rank')} on a node, and ntasks_per_node is {said}")
        if self.np and self.tasks_per_node and self.np > request.nodes * self.tasks_per_node:
            most = request.nodes * self.tasks_per_node
            there = counted(request.nodes, "node")
            refusals.append(f"np is {self.np}, and tasks_per_node {self.tasks_per_node}, which makes {most} on {there}")
        options = {"ntasks_per_node": asked} if asked else {}
        return Requirements(options, tuple(refusals), packages=("mpi4py",))

    def _tasks(self, nodes: int) -> int | None:
        if self.tasks_per_node is not None or self.np is None:
            return self.tasks_per_node
        return -(-self.np // nodes)


def _processes(value: Any) -> Any:
    # A variable's value is checked when the launcher is made anew with it.
    if isinstance(value, EnvVar | type(EnvVar.int(""))) or value == "auto" or str(value).isdecimal():
        return value
    raise ValueError('it is a number of ranks, or "auto"')


Processes = Annotated[Any, AfterValidator(_processes)]
"""A number or a word, which Dagster's configuration has no type for."""


class TorchrunLauncher(ComputeLauncher):
    """Runs the payload as ranks of torchrun (`torch.distributed.run`) over all nodes; in mode `local` on this machine.

    Fields are called as torchrun's options. The agents meet on the first node, at its address and a port that is free.
    """

    nproc_per_node: Processes = Field(
        default="auto", description='Ranks on each node; "auto": one for each of its GPUs, or else of the job\'s CPUs.'
    )
    max_restarts: NotNegative = Field(
        default=0, description="How often all ranks are started anew when one has failed."
    )
    rdzv_backend: str = Field(default="c10d", description="How the agents meet.")
    join_timeout: Positive = Field(default=120, description="Seconds in which all agents have to have met.")
    end_timeout: Positive = Field(
        default=30,
        description="Seconds that agents have to end when one of them has; without it they may wait for ever.",
    )
    options: list[str] = Field(default=[], description="Further options of torchrun, such as `--monitor-interval=1`.")

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        values = {
            "torchrun_processes": str(self.nproc_per_node),
            "torchrun_restarts": str(self.max_restarts),
            "torchrun_backend": self.rdzv_backend,
            "torchrun_timeout": str(self.join_timeout),
            "torchrun_join": str(self.end_timeout),
            "torchrun_options": self.options,
            "python": (*place.activation.wrapper, place.activation.python),
        }
        return ranks_plan(payload, place, "torchrun.sh", values, unheard=UNHEARD, helpers=("torchrun_facts.py",))

    def requirements(self, request: JobRequest | None) -> Requirements:
        if request is None:
            return Requirements(packages=("torch",))
        tasks = str(request.options.get("ntasks-per-node", "1"))
        refusals = () if tasks == "1" else (f"it starts one agent on a node, and ntasks_per_node is {tasks}",)
        return Requirements({"ntasks_per_node": 1}, refusals, packages=("torch",))


_WITHOUT_EFFECT = ("redis_password", "worker_startup_delay", "use_head_ip", "worker_cpu_bind")
_FIXED_ONLY = ("ray_port", "dashboard_port", "port_config")


SESSION_CLUSTER = Field(
    default=None,
    description="In a session: the cluster that is kept for all steps that ask for the same. Without it, and "
    "elsewhere, each has its own.",
)


class RayPortConfig(NamedFields, ConfigurableResource[Any]):
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
    session_cluster: SessionCluster | None = SESSION_CLUSTER
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
        functions = {"pre_start": self._pre_start()}
        return beside_cluster(direct_plan(payload, place), place, "ray", values, functions, self.session_cluster)

    def requirements(self, request: JobRequest | None) -> Requirements:
        refusals = []
        if self.network_interface and self.node_ip_address_command:
            refusals.append("network_interface and node_ip_address_command both say what the address of a node is")
        if self.head_startup_timeout < 1:
            refusals.append(f"head_startup_timeout is {self.head_startup_timeout}, at least 1 is possible")
        if self.ray_address and self.session_cluster:
            refusals.append("ray_address and session_cluster both say which cluster it is")
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


# What is a field, or what this launcher alone can say.
_SAID_ELSEWHERE = {
    "spark.master": "master_url",
    "spark.executor.memory": "executor_memory",
    "spark.executor.cores": "executor_cores",
    "spark.executor.instances": "num_executors",
    "spark.cores.max": "num_executors",
    "spark.driver.memory": "driver_memory",
    "spark.eventLog.enabled": "event_log",
    "spark.authenticate.secret": "nothing: each cluster has one of its own",
    "spark.local.dir": "the variable TMPDIR of the nodes",
}
_KEY = re.compile(r"spark\.[^\s=:\\#!]+")
_LEAST_MIB = 512


class SparkLauncher(ComputeLauncher):
    """Runs the payload beside a Spark cluster of all nodes of the job; in mode `local`, with `local[*]`.

    `SparkSession.builder.getOrCreate()` needs no more. The payload is started when the workers of all nodes are alive
    in the master's own table, and the cluster is gone when it has ended.
    """

    spark_home: str | None = Field(
        default=None, description="A Spark of the nodes; by default that of the environment's package `pyspark`."
    )
    master_url: str | None = Field(
        default=None, description="A cluster that is there already, such as `spark://host:7077`."
    )
    executor_memory: str | None = Field(
        default=None, description="The heap of an executor, as `mem`; by default 0.6 of its share of the job's memory."
    )
    executor_cores: Positive | None = Field(
        default=None, description="CPUs of an executor; by default all of the job's on its node, but 8 at most."
    )
    driver_memory: str | None = Field(
        default=None,
        description="The heap of the driver; by default an eighth of the job's memory on a node, from 512M to 4G.",
    )
    num_executors: Positive | None = Field(
        default=None, description="Executors in all; by default as many as there is room for."
    )
    conf: dict[str, str] = Field(default={}, description="Further properties of Spark.")
    event_log: bool = Field(
        default=False, description="Whether to write Spark's event log, to `spark-events` in the working directory."
    )
    startup_timeout: Positive = Field(default=120, description="Seconds until all nodes have to be there.")
    network_interface: str | None = Field(
        default=None,
        description="The interface whose address Spark takes, such as `ib0`; by default the node's name is.",
    )
    session_cluster: SessionCluster | None = SESSION_CLUSTER

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        values = {
            "given_home": self.spark_home or "",
            "master": self.master_url or "",
            "timeout": str(self.startup_timeout),
            "interface": self.network_interface or "",
            "auth": "" if self.conf.get("spark.authenticate", "").lower() == "false" else "yes",
            "executor_mib": _mib(self.executor_memory),
            "executor_cores": str(self.executor_cores or ""),
            "executors": str(self.num_executors or ""),
            "driver_mib": _mib(self.driver_memory),
            "conf": tuple(f"{key} {_value(value)}" for key, value in self.conf.items()),
            "events": "yes" if self.event_log else "",
            "wrapper": place.activation.wrapper,
            "python": place.activation.python,
            "program": resources.files("dagster_slurm.launchers").joinpath("spark_program.py").read_text("utf-8"),
        }
        plan = direct_plan(payload, place)
        plan = dataclasses.replace(plan, setup=(*plan.setup, "spark_export"))
        return beside_cluster(plan, place, "spark", values, None, self.session_cluster)

    def requirements(self, request: JobRequest | None) -> Requirements:
        # Without its first node there is no driver; Spark goes on without any other.
        more = request is not None and request.nodes > 1 and self.master_url is None
        options = {"no_kill": True} if more else {}
        packages = () if self.spark_home else ("pyspark",)
        return Requirements(options, tuple(self._refusals(request)), packages)

    def _refusals(self, request: JobRequest | None) -> Iterator[str]:
        for key in self.conf:
            if key in _SAID_ELSEWHERE:
                yield f"conf has {key!r}, which is said by {_SAID_ELSEWHERE[key]}"
            elif not _KEY.fullmatch(key):
                yield f"conf has {key!r}, and properties of Spark begin with 'spark.'"
        for name in ("executor_memory", "driver_memory"):
            memory = getattr(self, name)
            if memory is not None and parse_memory_mib(memory) < _LEAST_MIB:
                yield f"{name} is {memory}, and Spark does not start with less than {_LEAST_MIB}M"
        if self.master_url and self.session_cluster:
            yield "master_url and session_cluster both say which cluster it is"
        if self.spark_home is not None and not self.spark_home.startswith("/"):
            yield f"spark_home {self.spark_home!r} is not an absolute path"
        cpus = request.cpus_per_task if request is not None and self.master_url is None else None
        tasks = str(request.options.get("ntasks-per-node", 1)) if request is not None else ""
        if cpus and self.executor_cores and tasks == "1" and self.executor_cores > cpus:
            yield f"executor_cores is {self.executor_cores}, and a node has {counted(cpus, 'CPU')} of the job"


def _mib(memory: str | None) -> str:
    return "" if memory is None else str(parse_memory_mib(memory))


def _value(text: str) -> str:
    """As in a file of properties."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


LAUNCHERS: Mapping[str, type[ComputeLauncher]] = {
    "bash": BashLauncher,
    "mpi": MPILauncher,
    "ray": RayLauncher,
    "spark": SparkLauncher,
    "torchrun": TorchrunLauncher,
}
"""Every launcher of this package, by the word for it in YAML and in profiles."""
