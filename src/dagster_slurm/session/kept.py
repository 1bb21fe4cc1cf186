"""Clusters that a session keeps for many of its steps: what starts one, and what is asked of the dispatcher. Pure."""

from __future__ import annotations

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.launchers import KeptCluster, LaunchPlan, launch_script
from dagster_slurm.run_directory import short_digest
from dagster_slurm.session import SessionSpec, Share
from dagster_slurm.transport.shell import shell_file

_FILES = ("figures.sh", "samples.sh", "batch.sh")


def keeping_script(cluster: KeptCluster) -> str:
    """The batch script of a cluster, as a step of its own, whose payload only waits.

    The same cluster has the same text, whoever asks for it: where it lies is found out when it runs.
    """
    plan = LaunchPlan((), ("bash", "keep.sh"), (cluster.hook,))
    head = ("#!/bin/bash", "run_directory=${PWD%/work}", "forwarded_signals=", "component=")
    return "\n".join((*head, launch_script(plan), *(shell_file("dagster_slurm.job", name) for name in _FILES)))


def cluster_word(cluster: KeptCluster, script: str) -> str:
    """What is added to a request in the mailbox, as clusters.sh reads it: by what it is known, and its sizes.

    Args:
        cluster: The cluster.
        script: Its batch script.
    """
    sizes = (cluster.nodes, cluster.cpus, cluster.mem_mib, cluster.gpus)
    words = [str(size) for size in sizes]
    return ":".join((f"{cluster.hook.name}-{short_digest(script + ':'.join(words))}", *words))


def refuse_cluster(session: SessionSpec, step: Share, cluster: KeptCluster) -> None:
    """Refuse a step that can never run beside its cluster.

    Raises:
        InvalidRequestError: It has several nodes, or both together ask for more than the allocation has.
    """
    if step.nodes != 1:
        raise InvalidRequestError(
            f"The step asks for {step.nodes} nodes, and works beside a cluster that {session.title} keeps",
            hint="Its nodes are those of `session_cluster`; leave `num_nodes` out for the step.",
        )
    together = Share(cluster.nodes, cluster.cpus + step.cpus, cluster.mem_mib + step.mem_mib, cluster.gpus + step.gpus)
    session.refuse_step(together, "The step, with its cluster beside it,")
