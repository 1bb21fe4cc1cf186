"""The partition, and whether Slurm would take the request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from dagster_slurm.doctor.finding import Finding, fine, skipped, warning, wrong
from dagster_slurm.doctor.slurm import NO_SUCH_PROGRAM_STATUS, Association, answered, associations
from dagster_slurm.doctor.world import World
from dagster_slurm.errors import RemoteStorageError, SlurmCommandError
from dagster_slurm.slurm.partitions import SitePartition, parse_site
from dagster_slurm.slurm.quantities import format_time_limit
from dagster_slurm.slurm.request import JobRequest

T = TypeVar("T")

PARTITION, REQUEST = "partition", "request"
_NO_LIMIT = ("UNLIMITED", "NONE", "(null)", "")


# Two steps look at them, and the controller is asked once.
@lru_cache(maxsize=1)
def partitions(world: World) -> dict[str, SitePartition]:
    """The cluster's partitions.

    Raises:
        SlurmCommandError: scontrol failed.
    """
    answer = world.run("partitions")
    answered(world, "scontrol", answer)
    return {each.name: each for each in parse_site(answer.text).partitions}


def check_partition(world: World) -> Finding:
    """Whether the partition is there and takes jobs."""
    try:
        known = partitions(world)
    except SlurmCommandError as error:
        if error.returncode != NO_SUCH_PROGRAM_STATUS:
            raise
        return skipped(PARTITION, "scontrol is not on the PATH of the login node")
    return judge_partition(world.request, known)


def judge_partition(request: JobRequest, known: Mapping[str, SitePartition]) -> Finding:
    """Whether the request's partitions are there and up; of several, Slurm takes the first that fits."""
    asked = (request.partition or "").split(",") if request.partition else []
    unknown = [name for name in asked if name not in known]
    if unknown:
        return wrong(
            PARTITION,
            f"There is no partition {', '.join(map(repr, unknown))} on this cluster",
            f"Correct SLURM_PARTITION; there are: {', '.join(known) or 'none'}.",
        )
    chosen = [known[name] for name in asked] or [each for each in known.values() if each.is_default]
    if not chosen:
        return wrong(
            PARTITION,
            "No partition is named, and the cluster has no default one",
            f"Set SLURM_PARTITION to one of: {', '.join(known) or 'none'}.",
        )
    return _judge_state(chosen)


def _judge_state(chosen: Sequence[SitePartition]) -> Finding:
    found = "; ".join(map(describe, chosen))
    closed = [each.name for each in chosen if each.state in ("DRAIN", "INACTIVE")]
    if len(closed) == len(chosen):
        problem = f"The partition {', '.join(closed)} takes no new jobs ({chosen[0].state})"
        return wrong(PARTITION, problem, "Choose another one, or ask the site when it opens.", found)
    if not any(each.state == "UP" for each in chosen):
        problem = f"The partition {chosen[0].name} starts no jobs now ({chosen[0].state})"
        return warning(PARTITION, problem, "Jobs wait until it is up again; ask the site.", found)
    if not any(_serving(each) for each in chosen):
        problem = f"No node of the partition {chosen[0].name} can run a job now"
        return warning(PARTITION, problem, "Jobs wait until one is back; `sinfo -R` says why.", found)
    return fine(PARTITION, found)


def _serving(partition: SitePartition) -> bool:
    return not partition.nodes or any(each.is_serving for each in partition.nodes)


def describe(partition: SitePartition) -> str:
    """A partition in a few words."""
    fields = partition.fields
    by_state: Counter[str] = Counter()
    for each in partition.nodes:
        by_state[each.state] += each.count
    states = ", ".join(f"{number} {state}" for state, number in by_state.items())
    limits = {
        "time limit": fields.get("MaxTime", ""),
        "default": fields.get("DefaultTime", ""),
        "at most nodes": fields.get("MaxNodes", ""),
        "memory for each node by default": fields.get("DefMemPerNode", ""),
        "memory for each CPU by default": fields.get("DefMemPerCPU", ""),
    }
    told = [f"{name} {value}" for name, value in limits.items() if value not in _NO_LIMIT]
    name = f"{partition.name}{' (the default)' if partition.is_default else ''}"
    return ", ".join([f"{name} {partition.state}", f"nodes: {states or fields.get('TotalNodes', '?')}", *told])


def check_request(world: World) -> Finding:
    """Whether Slurm would take a job as configured; nothing is queued."""
    request = world.request
    try:
        world.cluster.check(request)
    except RemoteStorageError:
        # The step `writing` says what is wrong.
        return skipped(REQUEST, "no job is submitted from a remote_base that is not this user's alone")
    partition = _if_told(lambda: partitions(world).get(request.partition or ""), None)
    return judge_request(request, partition, _if_told(lambda: associations(world), []))


def _if_told(ask: Callable[[], T], otherwise: T) -> T:
    """Slurm took the request; what it leaves unchecked can be looked at only where these commands answer."""
    try:
        return ask()
    except SlurmCommandError:
        return otherwise


def judge_request(request: JobRequest, partition: SitePartition | None, charged: Sequence[Association]) -> Finding:
    """Of a request that Slurm takes: what would keep its job from starting all the same."""
    found = describe_request(request)
    limit = partition.max_seconds if partition is not None else None
    if partition is not None and limit is not None and (request.time_limit_seconds or 0) > limit:
        return wrong(
            REQUEST,
            f"The time limit is over the {format_time_limit(limit)} of the partition {partition.name}: the job would "
            "wait for ever",
            "Lower SLURM_TIME, or choose another partition.",
            found,
        )
    accounts = list(dict.fromkeys(each.account for each in charged))
    if request.account is not None and accounts and request.account not in accounts:
        return warning(
            REQUEST,
            f"The account {request.account!r} is not one of yours, though Slurm does not check that here",
            f"Set SLURM_ACCOUNT to one of: {', '.join(accounts)}.",
            found,
        )
    return fine(REQUEST, f"sbatch would take it: {found}")


def describe_request(request: JobRequest) -> str:
    """The options in alphabetical order."""
    options = request.sbatch_options().items()
    return " ".join(f"--{name}" if value is True else f"--{name}={value}" for name, value in options)
