"""Slurm's commands, its controller, its accounting, and what the user may charge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dagster_slurm.doctor.finding import Finding, fine, from_error, skipped, warning, wrong
from dagster_slurm.doctor.world import Facts, World, read_facts
from dagster_slurm.errors import SlurmCommandError, SlurmUnavailableError
from dagster_slurm.slurm.rejections import classify_error
from dagster_slurm.text import counted
from dagster_slurm.transport import CompletedCommand

COMMANDS, CONTROLLER, ACCOUNTING, ASSOCIATIONS = "commands", "controller", "accounting", "associations"
_OLDEST, _NEWEST = (20, 11), (26, 5)
_OTHERS = ("sacct", "scontrol", "sinfo", "sacctmgr")
NO_SUCH_PROGRAM_STATUS = 127
"""A shell's, of a command that is not on the PATH."""
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
    return fine(CONTROLLER, f"{pings}; {counted(int(facts['jobs'][0]), 'job')} of yours in the queue")


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
        if error.returncode != NO_SUCH_PROGRAM_STATUS:
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
        if error.returncode != NO_SUCH_PROGRAM_STATUS:
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
