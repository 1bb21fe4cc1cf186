"""A Slurm cluster, and what is asked of it by default, as resources."""

from __future__ import annotations

from typing import Any

from dagster import ConfigurableResource
from pydantic import ConfigDict, Field

from dagster_slurm.job.connection import ClusterConnection, shared_connection
from dagster_slurm.job.submission import MAX_SUBMISSIONS_PER_SECOND
from dagster_slurm.job.watcher import WatchIntervals
from dagster_slurm.resources import environment_variables as variables
from dagster_slurm.resources.field_types import NotNegative, Positive
from dagster_slurm.resources.ssh import SSHConnectionResource

_DEFAULT_REMOTE_BASE = "~/dagster_runs"


class SlurmQueueConfig(ConfigurableResource[Any]):
    """What is asked of Slurm for a job, unless an asset or a call says otherwise. Names and units are sbatch's."""

    # A typo in a field's name is refused, not dropped.
    model_config = ConfigDict(extra="forbid")

    partition: str = Field(default="", description="Partition; the cluster's default if empty.")
    num_nodes: Positive = Field(default=1, description="Number of nodes.")
    time_limit: str = Field(default="00:30:00", description="Walltime, in one of the forms of sbatch's `--time`.")
    cpus: Positive = Field(default=2, description="CPUs for each task.")
    gpus_per_node: NotNegative = Field(default=0, description="GPUs on each node.")
    mem: str | None = Field(default="4096M", description="Memory on each node; `M` is MiB.")
    mem_per_cpu: str | None = Field(default=None, description="Memory for each CPU, in place of `mem`.")
    qos: str | None = Field(default=None, description="Quality of service.")
    reservation: str | None = Field(default=None, description="Reservation.")
    account: str | None = Field(default=None, description="Account to charge; the user's default if not set.")
    signal_before_timeout: str | None = Field(
        default=None, description="Signal to the payload before the walltime ends: `60`, or `USR1@60` (seconds)."
    )
    requeue: bool | None = Field(
        default=None,
        description="Whether Slurm may requeue the job after a preemption or a failed node; the site's way.",
    )
    max_queue_hours: float | None = Field(default=None, description="Give up when a job waits longer than this.", gt=0)

    def options(self) -> dict[str, object]:
        """The settings as one layer for `merge`; `mem_per_cpu` stands in for `mem`."""
        layer: dict[str, object] = {name: getattr(self, name) for name in type(self).model_fields}
        if self.mem_per_cpu is not None:
            del layer["mem"]
        if self.requeue is False:
            layer = {**layer, "requeue": None, "no_requeue": True}
        return {name: value for name, value in layer.items() if value not in (None, "")}


class SlurmResource(ConfigurableResource[Any]):
    """A Slurm cluster. Without `ssh`, Slurm's commands are run on this machine: Dagster is on the login node."""

    # A typo in a field's name is refused, not dropped.
    model_config = ConfigDict(extra="forbid")

    ssh: SSHConnectionResource | None = Field(default=None, description="The way to the login node; none if on it.")
    queue: SlurmQueueConfig | None = Field(default=None, description="What is asked of Slurm by default.")
    remote_base: str | None = Field(
        default=None, description="Directory on the cluster for runs; `~/dagster_runs` by default."
    )
    status_poll_interval_seconds: float = Field(
        default=5.0, description="Pause before Slurm is first asked for the state of running jobs, in seconds.", gt=0
    )
    status_poll_max_interval_seconds: float = Field(
        default=30.0, description="The longest such pause, in seconds.", gt=0
    )
    status_poll_backoff: float = Field(default=1.5, description="What the pause grows by each time.", ge=1)
    max_submissions_per_second: float = Field(
        default=MAX_SUBMISSIONS_PER_SECOND,
        description="How many jobs one process submits in a second; more wait for their turn.",
        gt=0,
    )

    @classmethod
    def from_env(cls) -> SlurmResource:
        """The cluster, and the way to it, from the `SLURM_EDGE_NODE_*` and `SLURM_*` environment variables.

        Raises:
            ConfigurationError: The host is missing, or a value cannot be read.
        """
        return cls.from_env_slurm(SSHConnectionResource.from_env())

    @classmethod
    def from_env_slurm(cls, ssh: SSHConnectionResource | None) -> SlurmResource:
        """The cluster from the `SLURM_*` environment variables, with the way to it given.

        Raises:
            ConfigurationError: A value cannot be read.
        """
        queue: dict[str, Any] = {
            "partition": variables.text("SLURM_PARTITION"),
            "time_limit": variables.text("SLURM_TIME"),
            "cpus": variables.number("SLURM_CPUS", int),
            "mem": variables.text("SLURM_MEM"),
            "mem_per_cpu": variables.text("SLURM_MEM_PER_CPU"),
            "num_nodes": variables.number("SLURM_NUM_NODES", int),
            "gpus_per_node": variables.number("SLURM_GPUS_PER_NODE", int),
            "qos": variables.text("SLURM_QOS"),
            "account": variables.text("SLURM_ACCOUNT"),
            "reservation": variables.text("SLURM_RESERVATION"),
            "signal_before_timeout": variables.text("SLURM_SIGNAL_BEFORE_TIMEOUT"),
        }
        own: dict[str, Any] = {
            "remote_base": variables.text("SLURM_REMOTE_BASE"),
            "status_poll_interval_seconds": variables.number("SLURM_STATUS_POLL_INTERVAL", float),
            "status_poll_max_interval_seconds": variables.number("SLURM_STATUS_POLL_MAX_INTERVAL", float),
            "status_poll_backoff": variables.number("SLURM_STATUS_POLL_BACKOFF", float),
            "max_submissions_per_second": variables.number("SLURM_MAX_SUBMISSIONS_PER_SECOND", float),
        }
        queue_config = variables.build(SlurmQueueConfig, queue, _variable_of)
        return variables.build(cls, {"ssh": ssh, "queue": queue_config, **own}, _variable_of)

    def default_options(self) -> dict[str, object]:
        """What is asked of Slurm by default, as one layer for `merge`."""
        return (self.queue or SlurmQueueConfig()).options()

    def option_layers(self) -> dict[str, dict[str, object]]:
        """The same as two layers for `merge_named`: what is built in, and what this resource says."""
        queue = self.queue or SlurmQueueConfig()
        layers: dict[str, dict[str, object]] = {"built-in": {}, "resource": {}}
        for name, value in queue.options().items():
            # `no_requeue` is what `requeue=False` becomes.
            is_said = name.removeprefix("no_") in queue.model_fields_set
            layers["resource" if is_said else "built-in"][name] = value
        return layers

    def connect(self) -> ClusterConnection:
        """The cluster and its watcher, shared by all steps of this process that are configured alike."""
        intervals = WatchIntervals(
            status_seconds=self.status_poll_interval_seconds,
            status_max_seconds=max(self.status_poll_interval_seconds, self.status_poll_max_interval_seconds),
            status_backoff=self.status_poll_backoff,
        )
        return shared_connection(
            self.ssh.connection() if self.ssh else None,
            remote_base=self.remote_base or _DEFAULT_REMOTE_BASE,
            intervals=intervals,
            max_submissions_per_second=self.max_submissions_per_second,
        )


def _variable_of(field: str) -> str:
    names = {
        "time_limit": "SLURM_TIME",
        "status_poll_interval_seconds": "SLURM_STATUS_POLL_INTERVAL",
        "status_poll_max_interval_seconds": "SLURM_STATUS_POLL_MAX_INTERVAL",
    }
    return names.get(field, f"SLURM_{field.upper()}")
