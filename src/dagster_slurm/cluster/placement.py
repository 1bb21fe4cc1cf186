"""The partition for requests that name `auto`, from a description of the cluster that is asked for once in a while."""

from __future__ import annotations

from dataclasses import replace

from dagster_slurm.cluster.slurm_cluster import SlurmCluster
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm.partitions import Choice, choose, parse_site
from dagster_slurm.slurm.request import JobRequest

_KNOWN_SECONDS = 900.0


def placed(cluster: SlurmCluster, request: JobRequest) -> tuple[JobRequest, Choice]:
    """A request with a partition in the place of `auto`, and why it is that one.

    The cluster is asked where no process of this user has asked in the last quarter of an hour; and before it is said
    that none fits.

    Raises:
        InvalidRequestError: None fits; it has the reason of each.
        SlurmUnavailableError: The controller does not answer.
        TransportError: The cluster cannot be reached.
    """
    text, is_new = cluster.site(_KNOWN_SECONDS)
    try:
        choice = choose(request, parse_site(text), cluster.host)
    except InvalidRequestError:
        if is_new:
            raise
        choice = choose(request, parse_site(cluster.site(0.0)[0]), cluster.host)
    return replace(request, partition=choice.partition), choice
