"""What a metrics collector is given of a job that has succeeded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dagster_slurm.errors import SlurmCommandError
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import Ended
from dagster_slurm.pipes.partition_results import SlurmOutcome, metadata_job_id
from dagster_slurm.slurm.request import JobRequest

if TYPE_CHECKING:
    from dagster_slurm.resources.slurm import SlurmResource

_SAID_CHARACTERS = 500


@dataclass(frozen=True)
class LoginNode:
    """Where a collector runs commands: the login node, over the connection that all of this process share.

    Args:
        connection: The cluster.
    """

    connection: ClusterConnection

    def run(self, command: str, *, timeout_seconds: float = 30.0) -> str:
        """What a command of shell prints.

        Args:
            command: It is run by `sh`.
            timeout_seconds: How long it may take.

        Raises:
            SlurmCommandError: It ended with another exit code than 0.
            TransportError: It could not be run, or did not end in time.
        """
        transport = self.connection.cluster.transport
        done = transport.command(("sh", "-c", command), timeout_seconds=timeout_seconds)
        if done.returncode:
            said = done.error_text
            raise SlurmCommandError(
                f"A command of a metrics_collector ended with exit code {done.returncode}: {said[-_SAID_CHARACTERS:]}",
                returncode=done.returncode,
                stderr=said,
                host=self.connection.cluster.host,
                command=command,
            )
        return done.text


@dataclass(frozen=True)
class SlurmMetricsContext:
    """A job that has ended, as a metrics collector sees it.

    Attributes:
        job_id: Slurm's number; text for the task of an array, "12_3".
        ended: How it ended, with its accounting.
        request: What was asked of Slurm.
        connection: The cluster it ran on.
        default_metrics: The figures that are known, by their keys in the metadata; `slurm_job_id` is `job_id`.
        slurm_resource: The resource of the cluster; None for a client that was made by hand.
        session_resource: None: what a session is asked for is the `SlurmSessionResource` of the code itself.
        step_id: Of a step of a session, Slurm's number of it; None for a job.
    """

    job_id: int | str
    ended: Ended
    request: JobRequest
    connection: ClusterConnection
    default_metrics: Mapping[str, Any]
    slurm_resource: SlurmResource | None = None
    session_resource: Any = None
    step_id: str | None = None

    @property
    def ssh_pool(self) -> LoginNode:
        """Where commands are run: `ssh_pool.run("df -h $SCRATCH")`."""
        return LoginNode(self.connection)

    @classmethod
    def of(cls, outcome: SlurmOutcome, figures: Mapping[str, Any], slurm: SlurmResource | None) -> SlurmMetricsContext:
        """Of a job's outcome.

        Args:
            outcome: How it ended.
            figures: The figures of it.
            slurm: The resource of the cluster.
        """
        job, _, step = outcome.job_id.partition(".")
        job_id = metadata_job_id(job)
        # A number, as collectors of 1.22 have it, of a step as well.
        metrics = MappingProxyType({**figures, **({"slurm_job_id": job_id} if step else {})})
        facts = (job_id, outcome.ended, outcome.request, outcome.connection, metrics, slurm)
        return cls(*facts, step_id=step or None)
