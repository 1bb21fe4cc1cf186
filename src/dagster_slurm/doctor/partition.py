"""The partition, and whether Slurm would take the request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from dagster_slurm.doctor.finding import Finding, fine, from_error, skipped, warning, wrong
from dagster_slurm.doctor.world import Facts, World, read_facts
from dagster_slurm.errors import RemoteStorageError, SlurmCommandError, SlurmUnavailableError
from dagster_slurm.slurm.quantities import format_time_limit, parse_time_limit_seconds
from dagster_slurm.slurm.rejections import classify_error
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.transport import CompletedCommand

T = TypeVar("T")

PARTITION, REQUEST = "partition", "request"
_FIELD = re.compile(r"\b(\w+)=(\S*)")
_NO_LIMIT = ("UNLIMITED", "NONE", "(null)", "")
# sinfo(1), NODE STATE CODES: what follows a state is a flag.
_SERVING = ("idle", "mixed", "allocated", "completing", "planned")


@dataclass(frozen=True)
class Partition:
    """A partition, as `scontrol show partition` tells of it.

    Args:
        name: Its name.
        is_default: Whether jobs go there that name none.
        state: UP, DOWN, DRAIN or INACTIVE (scontrol(1)).
        fields: Everything that is told, by its name.
        nodes: Number of nodes by state.
    """

    name: str
    is_default: bool
    state: str
    fields: Mapping[str, str]
    nodes: Mapping[str, int]


def parse_partitions(lines: Sequence[str], node_lines: Sequence[str]) -> dict[str, Partition]:
    """Read `scontrol --oneliner show partition`, and sinfo's "PARTITION|NUMBER|STATE" lines."""
    found = {}
    nodes = _nodes_by_partition(node_lines)
    for line in lines:
        fields = dict(_FIELD.findall(line))
        name = fields.get("PartitionName", "")
        by_state = nodes.get(name, {})
        found[name] = Partition(name, fields.get("Default") == "YES", fields.get("State", ""), fields, by_state)
    return found


def _nodes_by_partition(lines: Sequence[str]) -> dict[str, dict[str, int]]:
    nodes: dict[str, dict[str, int]] = {}
    for row in (line.split("|") for line in lines):
        if len(row) == 3 and re.fullmatch(r"\d{1,9}", row[1], re.ASCII):
            of = nodes.setdefault(row[0], {})
            of[row[2]] = of.get(row[2], 0) + int(row[1])
    return nodes


# Two steps look at them, and the controller is asked once.
@lru_cache(maxsize=1)
def partitions(world: World) -> dict[str, Partition]:
    """The cluster's partitions.

    Raises:
        SlurmCommandError: scontrol failed.
    """
    facts = answered(world, "scontrol", world.run("partitions"))
    return parse_partitions(facts.get("partition", []), facts.get("nodes", []))


def check_partition(world: World) -> Finding:
    """Whether the partition is there and takes jobs."""
    try:
        known = partitions(world)
    except SlurmCommandError as error:
        if error.returncode != 127:
            raise
        return skipped(PARTITION, "scontrol is not on the PATH of the login node")
    return judge_partition(world.request, known)


def judge_partition(request: JobRequest, known: Mapping[str, Partition]) -> Finding:
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


def _judge_state(chosen: Sequence[Partition]) -> Finding:
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


def _serving(partition: Partition) -> bool:
    return not partition.nodes or any(state.rstrip("*~#!%$@^-+").startswith(_SERVING) for state in partition.nodes)


def describe(partition: Partition) -> str:
    """A partition in a few words."""
    fields = partition.fields
    states = ", ".join(f"{number} {state}" for state, number in partition.nodes.items())
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


def judge_request(request: JobRequest, partition: Partition | None, charged: Sequence[Association]) -> Finding:
    """Of a request that Slurm takes: what would keep its job from starting all the same."""
    found = describe_request(request)
    limit = time_limit_of(partition)
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


def time_limit_of(partition: Partition | None) -> int | None:
    """The partition's limit in seconds; None for none."""
    text = partition.fields.get("MaxTime", "") if partition is not None else ""
    return None if text in _NO_LIMIT else parse_time_limit_seconds(text)


def describe_request(request: JobRequest) -> str:
    """The options in alphabetical order."""
    options = request.sbatch_options().items()
    return " ".join(f"--{name}" if value is True else f"--{name}={value}" for name, value in options)


COMMANDS, CONTROLLER, ACCOUNTING, ASSOCIATIONS = "commands", "controller", "accounting", "associations"
_OLDEST, _NEWEST = (20, 11), (26, 5)
_OTHERS = ("sacct", "scontrol", "sinfo", "sacctmgr")
_NO_SUCH_PROGRAM_STATUS = 127
# Asked for to see whether the accounting answers at all; whether there was such a job does not matter.
_ANY_JOB = "1"


def check_commands(world: World) -> Finding:
    """Whether Slurm's commands are there, and of a version we know."""
    facts = world.gather("commands")
    if all(name in facts for name in ("sbatch", "squeue", "scancel")):
        return judge_commands(facts, world.cluster.facts().version)
    missing = [name for name in ("sbatch", "squeue", "scancel") if name not in facts]
    return wrong(
        COMMANDS,
        f"Not on the PATH of the login node: {', '.join(missing)}",
        "Log in where Slurm's commands are, or extend PATH for shells that are not interactive (post_login_command, "
        "such as `module load slurm && sh -c {cmd}`).",
    )


def judge_commands(facts: Facts, version: tuple[int, int] | None) -> Finding:
    """Whether the version is one we know."""
    said = facts["version"][0] or "an unknown version"
    absent = [name for name in _OTHERS if name not in facts]
    found = f"{said}, {facts['sbatch'][0]}{'; without ' + ', '.join(absent) if absent else ''}"
    if version is None:
        return warning(
            COMMANDS, "The version of Slurm is not known", "Look at `sbatch --version` on the login node.", found
        )
    if version < _OLDEST:
        problem = f"Slurm {version[0]}.{version[1]:02d} is older than 20.11, the oldest that is supported"
        return warning(COMMANDS, problem, "Expect refusals of options; ask the site for an update.", found)
    if version > _NEWEST:
        problem = (
            f"Slurm {version[0]}.{version[1]:02d} is newer than {_NEWEST[0]}.{_NEWEST[1]:02d}, the newest that is known"
        )
        return warning(COMMANDS, problem, "It may work; look for a newer release of dagster-slurm.", found)
    return fine(COMMANDS, found)


def check_controller(world: World) -> Finding:
    """Whether slurmctld answers."""
    try:
        facts = answered(world, "squeue", world.run("controller"))
    except SlurmUnavailableError as error:
        return from_error(CONTROLLER, error, remedy="slurmctld does not answer the login node: ask the site.")
    pings = "; ".join(facts.get("ping", ["the controller answers"]))
    return fine(CONTROLLER, f"{pings}; {_jobs(int(facts['jobs'][0]))} of yours in the queue")


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"


def answered(world: World, command: str, answer: CompletedCommand) -> Facts:
    """The facts of a shell file that ends with a Slurm command's status.

    Raises:
        SlurmCommandError: The command failed.
    """
    if answer.returncode:
        raise classify_error(command, answer.returncode, answer.error_text, world.cluster.host)
    return read_facts(answer.text)


def check_accounting(world: World) -> Finding:
    """Whether sacct answers."""
    try:
        records = world.cluster.accounting([_ANY_JOB])
    except SlurmUnavailableError as error:
        remedy = "slurmdbd, the accounting daemon, does not answer: ask the site; runs wait for it at their end."
        return from_error(ACCOUNTING, error, remedy=remedy)
    except SlurmCommandError as error:
        if error.returncode != _NO_SUCH_PROGRAM_STATUS:
            raise
        return wrong(
            ACCOUNTING,
            "Not on the PATH of the login node: sacct",
            "Extend PATH for shells that are not interactive, or load Slurm's module in post_login_command: without "
            "sacct no run can be sure how its job ended.",
        )
    if records is None:
        return warning(
            ACCOUNTING,
            "The cluster keeps no accounting (AccountingStorageType)",
            "Runs work, without the figures of sacct in their metadata; ask the site for slurmdbd.",
        )
    return fine(ACCOUNTING, "sacct answers")


@dataclass(frozen=True)
class Association:
    """What the user may charge: one line of `sacctmgr show associations`."""

    cluster: str
    account: str
    partition: str
    qos: tuple[str, ...]


def parse_associations(lines: Sequence[str]) -> list[Association]:
    """Read "CLUSTER|ACCOUNT|PARTITION|QOS,QOS" lines; others are passed over."""
    rows = [line.split("|") for line in lines]
    return [Association(row[0], row[1], row[2], _names(row[3])) for row in rows if len(row) == 4]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


# Two steps look at them, and the accounting is asked once.
@lru_cache(maxsize=1)
def associations(world: World) -> list[Association]:
    """What this user may charge.

    Raises:
        SlurmCommandError: sacctmgr failed.
    """
    return parse_associations(answered(world, "sacctmgr", world.run("associations")).get("association", []))


def check_associations(world: World) -> Finding:
    """Which accounts and QOS the user has."""
    try:
        found = associations(world)
    except SlurmCommandError as error:
        if error.returncode != _NO_SUCH_PROGRAM_STATUS:
            raise
        return skipped(ASSOCIATIONS, "sacctmgr is not on the PATH of the login node")
    return judge_associations(found)


def judge_associations(found: Sequence[Association]) -> Finding:
    """Name them."""
    if not found:
        return warning(
            ASSOCIATIONS,
            "The accounting has no association for this user",
            "If jobs are refused because of it, ask the site for an account.",
        )
    accounts = dict.fromkeys(each.account for each in found)
    qos = dict.fromkeys(name for each in found for name in each.qos)
    return fine(ASSOCIATIONS, f"accounts: {', '.join(accounts)}; QOS: {', '.join(qos) or 'none'}")
