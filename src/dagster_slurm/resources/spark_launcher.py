"""Spark: a standalone cluster over the nodes of the job, up before the payload and down after it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from importlib import resources

from pydantic import Field

from dagster_slurm.launchers import LaunchPlan, Payload, Place, Requirements, direct_plan, nodes_hook
from dagster_slurm.resources.field_types import Positive
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.slurm.quantities import parse_memory_mib
from dagster_slurm.slurm.request import JobRequest

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
        hooks = (*plan.hooks, nodes_hook("spark", "spark.sh", place, values))
        return dataclasses.replace(plan, setup=(*plan.setup, "spark_export"), hooks=hooks)

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
        if self.spark_home is not None and not self.spark_home.startswith("/"):
            yield f"spark_home {self.spark_home!r} is not an absolute path"
        cpus = request.cpus_per_task if request is not None and self.master_url is None else None
        tasks = str(request.options.get("ntasks-per-node", 1)) if request is not None else ""
        if cpus and self.executor_cores and tasks == "1" and self.executor_cores > cpus:
            yield f"executor_cores is {self.executor_cores}, and a node has {cpus} CPUs of the job"


def _mib(memory: str | None) -> str:
    return "" if memory is None else str(parse_memory_mib(memory))


def _value(text: str) -> str:
    """As in a file of properties."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
