"""Why a job waits, or ended, in words; and what would end the waiting.

Sources: squeue(1), JOB REASON CODES, releases 20.11 to 26.05, and the page "Job Reason Codes"
(https://slurm.schedmd.com/job_reason_codes.html). In place of a code squeue may print a text of slurmctld's; those
that a release has are in `_TEXTS`. What nobody here knows, such as a reason of a site's own plugin, is shown as it is.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import NamedTuple

# The 163 codes that name a limit of an association or a QOS, such as `QOSMaxCpuPerUserLimit`, have four parts: whose
# limit, of which kind, on what, and measured how. What each counts: https://slurm.schedmd.com/resource_limits.html.
_CODE = re.compile(
    r"(?P<whose>assoc|qos|)(?P<kind>grp|max|min)"
    r"(?P<what>bb|billing|cpu|energy|gres|license|memory|mem|node|unknown|submitjobs?|jobs?|wallduration|wall)"
    r"(?P<measure>runminutes|runminsperuser|runminsperaccount|minutesperjob|minutes|perjob|pernode|peruser|peraccount|)(?:limit|notsatisfied|)"
)
_WHAT = {
    "bb": "burst buffer space",
    "billing": "billing units",
    "cpu": "CPUs",
    "energy": "energy",
    "gres": "generic resources (such as GPUs)",
    "license": "licenses",
    "mem": "memory",
    "memory": "memory",
    "node": "nodes",
    "unknown": "resources that Slurm does not name",
}
_LOWER = "an administrator raises the limit"
_NOT_AS_ASKED = "it does not start as it was asked for: cancel it and ask for {which}"


class Limit(NamedTuple):
    """What a reason says of a limit.

    Attributes:
        words: What holds the job back.
        ends: What would end that.
        is_beyond: Whether the job alone asks for what the limit does not allow.
    """

    words: str
    ends: str
    is_beyond: bool


def limit_of(code: str) -> Limit | None:
    """Read a reason's code, or None if it names no such limit."""
    match = _CODE.fullmatch(code.lower())
    if match is None:
        return None
    whose = {"assoc": "its account", "qos": "its QOS", "": "its QOS"}[match["whose"]]
    return _said(whose, match["kind"], match["what"], match["measure"])


def _said(whose: str, kind: str, what: str, measure: str) -> Limit:
    if what.startswith(("job", "submitjob")):
        return _of_jobs(whose, kind, measure, waiting=what.startswith("submit"))
    if what.startswith("wall"):
        return _of_wall_time(whose, kind)
    if kind == "min":
        return _beyond(f"{whose} demands more {_WHAT[what]} of a job than it asks for", "more, or for another QOS")
    if kind == "grp":
        return _of_all(whose, _WHAT[what], measure)
    return _of_one(whose, _WHAT[what], measure)


def _of_jobs(whose: str, kind: str, measure: str, *, waiting: bool) -> Limit:
    of = "" if kind == "grp" else "of its account's " if measure == "peraccount" else "of your "
    words = f"as many {of}jobs {'run or wait' if waiting else 'run'} as {whose} allows"
    return Limit(words, f"it starts when one of them ends, or {_LOWER}", False)


def _of_wall_time(whose: str, kind: str) -> Limit:
    if kind == "max":
        return _beyond(
            f"its time limit is longer than {whose} allows a job", "less time, or with another account or QOS"
        )
    ends = f"it starts when other jobs end, used time is written off, or {_LOWER}"
    return Limit(f"the jobs of {whose} have used the run time that is allowed to all of them", ends, False)


def _of_all(whose: str, what: str, measure: str) -> Limit:
    if measure == "minutes":
        words = f"{whose} has used up its budget of {what}, counted in minutes, or too little is left for this job"
        return Limit(
            words, "it starts when the budget is renewed or raised, which the administrators know about", False
        )
    if measure == "runminutes":
        words = f"the running jobs of {whose} hold all {what} that it allows, counted with the time they have left"
        return Limit(words, f"it starts when they come nearer to their ends, or {_LOWER}", False)
    return Limit(
        f"the running jobs of {whose} hold all {what} that it allows", f"it starts when they end, or {_LOWER}", False
    )


def _of_one(whose: str, what: str, measure: str) -> Limit:
    if measure in ("peruser", "peraccount"):
        who = "one user" if measure == "peruser" else "one account"
        others = "your other jobs" if measure == "peruser" else "other jobs of the account"
        ends = f"it starts when {others} end, unless it alone asks for more than that: then it never does"
        return Limit(f"it would go beyond the {what} that {whose} allows {who}", ends, False)
    if measure in ("runminsperuser", "runminsperaccount"):
        jobs = "your running jobs" if measure == "runminsperuser" else "the running jobs of its account"
        who = "one user" if measure == "runminsperuser" else "one account"
        words = (
            f"with {jobs} it would go beyond the {what} that {whose} allows {who}, counted with the time they have left"
        )
        ends = (
            "it starts when they come nearer to their ends, unless it alone asks for more than that: then it never does"
        )
        return Limit(words, ends, False)
    if measure == "minutesperjob":
        words = f"its {what}, times its time limit, are more than {whose} allows a job"
        return _beyond(words, "less, or for less time")
    one = "a node of a job" if measure == "pernode" else "a job"
    return _beyond(f"it asks for more {what} than {whose} allows {one}", "less, or with another account or QOS")


def _beyond(words: str, which: str) -> Limit:
    return Limit(words, _NOT_AS_ASKED.format(which=which), True)


class ReasonCategory(enum.Enum):
    """What kind of reason it is, which tells who can do something about it."""

    QUEUE = "others are before it, or hold what it needs"
    LIMIT = "a limit of its account, QOS or array is reached"
    TIME = "its time has not come"
    DEPENDENCY = "it waits for another job"
    NODES = "nodes or the partition are not available"
    SLURM = "Slurm is at work on it"
    HELD = "somebody has to release it"
    NEVER = "as it was asked for, it does not start"
    ENDED = "it, or its last start, has ended"
    UNKNOWN = "not a reason that is known here"


@dataclass(frozen=True)
class Reason:
    """Why a job waits, or ended.

    Attributes:
        code: Slurm's code; what Slurm printed, if it has none.
        category: What kind of reason it is.
        words: What it means, to follow "the job waits:".
        ends: What would end the waiting, or what to do; `{job}` stands for the job's id.
        detail: What Slurm said besides, such as the names of nodes.
    """

    code: str
    category: ReasonCategory
    words: str
    ends: str
    detail: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether it stands in the table."""
        return self.category is not ReasonCategory.UNKNOWN

    @property
    def needs_action(self) -> bool:
        """Whether the job starts only if somebody does something about the job itself."""
        return self.category in (ReasonCategory.HELD, ReasonCategory.NEVER)


class _Meaning(NamedTuple):
    category: ReasonCategory
    words: str
    ends: str


_QUEUE, _LIMIT, _TIME = ReasonCategory.QUEUE, ReasonCategory.LIMIT, ReasonCategory.TIME
_NODES, _SLURM, _HELD = ReasonCategory.NODES, ReasonCategory.SLURM, ReasonCategory.HELD
_NEVER, _ENDED = ReasonCategory.NEVER, ReasonCategory.ENDED

_BY_ITSELF = "it goes on by itself"
_RELEASE = "`scontrol release {job}` lets it start"
_ADMIN_RELEASE = "only an administrator can release it: ask them why it is held"
_ANEW = "it does not start as it was asked for: cancel it and "
_SEE_LOG = "Slurm's log of the job and `scontrol show job {job}` may say more"

# The codes, in small letters: releases differ in theirs ("DeadLine", "Deadline").
_MEANINGS: dict[str, _Meaning] = {
    # Its turn has not come.
    "resources": _Meaning(
        _QUEUE, "the nodes, CPUs, memory or GPUs it asks for are in use", "it starts when other jobs end and free them"
    ),
    "priority": _Meaning(
        _QUEUE,
        "jobs of higher priority are before it",
        "it starts after them, or before if it fits into a gap, which is easier with a shorter time limit",
    ),
    "licenses": _Meaning(_QUEUE, "the licenses it asks for are in use", "it starts when other jobs return them"),
    "burstbufferresources": _Meaning(
        _QUEUE, "the burst buffer has no room for it", "it starts when other jobs free theirs"
    ),
    "powernotavail": _Meaning(
        _QUEUE, "it needs more power than is left on the cluster", "it starts when other jobs end"
    ),
    "powerreserved": _Meaning(
        _QUEUE, "the power it needs is reserved for other jobs", "it starts when they have ended"
    ),
    "maxpoweredupnodes": _Meaning(
        _QUEUE, "as many nodes are powered up as the site allows", "it starts when such nodes are free or powered down"
    ),
    "mpiportsbusy": _Meaning(
        _QUEUE, "the ports that are reserved for MPI are in use", "it starts when other jobs end and free them"
    ),
    "nvidiaimexchannels": _Meaning(
        _QUEUE,
        "the IMEX channels, by which NVIDIA GPUs of several nodes share memory, are in use",
        "it starts when other jobs end and free them",
    ),
    # Its time has not come.
    "begintime": _Meaning(
        _TIME,
        "its earliest start time has not come",
        "it starts then or later; Slurm sets that time about two minutes ahead when a job is requeued",
    ),
    "reservation": _Meaning(
        _TIME, "its reservation has not begun or is in use", "it starts when the reservation has room for it"
    ),
    # Other jobs.
    "dependency": _Meaning(
        ReasonCategory.DEPENDENCY,
        "it depends on another job",
        "it starts when that job has begun or ended in the way the dependency asks for",
    ),
    "dependencyneversatisfied": _Meaning(
        _NEVER,
        "it depends on another job, which has ended in a way the dependency does not allow",
        _ANEW + "submit it again, with another dependency or none",
    ),
    # Limits that are not made of parts; the others are in `limit_reasons`.
    "jobarraytasklimit": _Meaning(
        _LIMIT, "as many tasks of its array run as the array allows at once", "it starts when one of them ends"
    ),
    "associationjoblimit": _Meaning(
        _LIMIT, "as many jobs run as its account allows", "it starts when one of them ends"
    ),
    "associationresourcelimit": _Meaning(
        _LIMIT, "a limit of its account is reached", "it starts when other jobs of the account end"
    ),
    "associationtimelimit": _Meaning(
        _LIMIT, "the time allowed to its account is used up", "it starts when that is renewed or raised"
    ),
    "qosjoblimit": _Meaning(_LIMIT, "as many jobs run as its QOS allows", "it starts when one of them ends"),
    "qosresourcelimit": _Meaning(_LIMIT, "a limit of its QOS is reached", "it starts when other jobs of the QOS end"),
    "qostimelimit": _Meaning(
        _LIMIT, "the time allowed to its QOS is used up", "it starts when that is renewed or raised"
    ),
    "qosusagethreshold": _Meaning(
        _LIMIT,
        "its account has used more than its QOS admits",
        "it starts when that usage has faded, or with another QOS",
    ),
    "accountingpolicy": _Meaning(
        _LIMIT, "a limit of its account or QOS is reached", "it starts when other jobs end, or the limit is raised"
    ),
    # Nodes and partitions.
    "reqnodenotavail": _Meaning(
        _NODES,
        "a node it needs is in use, reserved, down or drained",
        "it starts when that node is available again; one that is down or drained needs an administrator",
    ),
    "partitiondown": _Meaning(
        _NODES, "its partition is down", "it starts when an administrator brings the partition up"
    ),
    "partitioninactive": _Meaning(
        _NODES, "its partition is inactive", "it starts when an administrator activates the partition"
    ),
    "constraints": _Meaning(
        _NODES, "no node that is available fits what it asks for", "it starts when such a node is available"
    ),
    "frontenddown": _Meaning(
        _NODES, "no front-end node is available", "it starts when an administrator brings one back"
    ),
    "blockmaxerror": _Meaning(
        _NODES, "the block of nodes it needs has too many errors", "it starts when an administrator has cleared them"
    ),
    "blockfreeaction": _Meaning(_NODES, "the block of nodes it needs is being freed", _BY_ITSELF),
    # Slurm is at work on it.
    "none": _Meaning(_SLURM, "Slurm has not looked at it yet", _BY_ITSELF),
    "waitingforscheduling": _Meaning(_SLURM, "Slurm has not looked at it yet", _BY_ITSELF),
    "prolog": _Meaning(_SLURM, "the site's prolog program prepares it", _BY_ITSELF),
    "cleaning": _Meaning(_SLURM, "Slurm cleans up after its last start", _BY_ITSELF),
    "burstbufferstagein": _Meaning(_SLURM, "its files are being staged into the burst buffer", _BY_ITSELF),
    "fedjoblock": _Meaning(_SLURM, "the clusters of the federation agree on which of them runs it", _BY_ITSELF),
    # What the library prints for a number that it has no code for; 24.11 misspells it.
    "invalidreason": _Meaning(_SLURM, "Slurm has no name for the reason", _SEE_LOG),
    "invaildreason": _Meaning(_SLURM, "Slurm has no name for the reason", _SEE_LOG),
    # Held.
    "jobhelduser": _Meaning(_HELD, "it is held, by you or by a coordinator of its account", _RELEASE),
    "jobheldadmin": _Meaning(_HELD, "it is held by an administrator", _ADMIN_RELEASE),
    "jobholdmaxrequeue": _Meaning(
        _HELD, "it was requeued so often that Slurm holds it", f"see why its starts failed; then {_RELEASE}"
    ),
    "reservationdeleted": _Meaning(
        _HELD,
        "its reservation was deleted, and Slurm holds it",
        "`scontrol update jobid={job} reservation=` frees it of the reservation; then " + _RELEASE,
    ),
    "burstbufferoperation": _Meaning(
        _HELD, "an operation of the burst buffer failed for it, and Slurm holds it", f"{_SEE_LOG}; then {_RELEASE}"
    ),
    # As it was asked for, it does not start.
    "badconstraints": _Meaning(_NEVER, "no node fits what it asks for", _ANEW + "ask for nodes that there are"),
    "invalidaccount": _Meaning(
        _NEVER, "its account is not valid, or not any more", _ANEW + "submit it with an account that is yours"
    ),
    "accountnotallowed": _Meaning(
        _NEVER, "its account may not use its partition", _ANEW + "submit it with another account or partition"
    ),
    "invalidqos": _Meaning(
        _NEVER, "its QOS is not valid, or not any more", _ANEW + "submit it with a QOS that is yours"
    ),
    "qosnotallowed": _Meaning(
        _NEVER, "its account or partition does not allow its QOS", _ANEW + "submit it with another QOS"
    ),
    "partitiontimelimit": _Meaning(
        _NEVER, "its time limit is longer than its partition allows", _ANEW + "ask for less time or another partition"
    ),
    "partitionnodelimit": _Meaning(
        _NEVER,
        "it asks for more or fewer nodes than its partition allows, or than are up there",
        "cancel it and ask for another number of nodes or another partition, or wait for nodes to come back",
    ),
    "partitionconfig": _Meaning(
        _NEVER, "it asks for what its partition does not allow", _ANEW + "ask for less or for another partition"
    ),
    "maxmemperlimit": _Meaning(
        _NEVER, "it asks for more memory on a node, or for a CPU, than is allowed", _ANEW + "ask for less memory"
    ),
    "reservationinvalid": _Meaning(
        _NEVER, "its reservation does not exist or is not open to it", _ANEW + "submit it without that reservation"
    ),
    "scheddefer": _Meaning(
        _NEVER, "it wants to start at once, which the site does not do", _ANEW + "submit it without `immediate`"
    ),
    # It has ended, or its last start has.
    "nonzeroexitcode": _Meaning(_ENDED, "its script ended with a non-zero exit code", "its stderr may say why"),
    "raisedsignal": _Meaning(_ENDED, "a signal ended it", "its stderr may say why"),
    "timelimit": _Meaning(_ENDED, "it reached its time limit", "ask for more time"),
    "outofmemory": _Meaning(_ENDED, "it used more memory than it had asked for", "ask for more memory"),
    "nodedown": _Meaning(_ENDED, "a node it ran on or needs is down", "submit it again, without that node"),
    "joblaunchfailure": _Meaning(_ENDED, "it could not be launched", _SEE_LOG),
    "systemfailure": _Meaning(_ENDED, "Slurm, a file system or the network failed", "submit it again"),
    "inactivelimit": _Meaning(_ENDED, "it was inactive for longer than the site allows", "its stderr may say why"),
    "deadline": _Meaning(_ENDED, "it could not be done before its deadline", "ask for less time or a later deadline"),
}

# Texts in place of a code, and the code of what they say; the first that matches wins.
_TEXTS: tuple[tuple[re.Pattern[str], str, _Meaning | None], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), code, meaning)
    for pattern, code, meaning in (
        (
            r"ReqNodeNotAvail, ?May be reserved for other job",
            "ReqNodeNotAvail",
            _Meaning(_NODES, "a node it needs may be reserved for another job", "it starts when that job has ended"),
        ),
        (
            r"ReqNodeNotAvail, ?Reserved for maintenance",
            "ReqNodeNotAvail",
            _Meaning(_NODES, "a node it needs is reserved for maintenance", "it starts when the maintenance is over"),
        ),
        (
            r"ReqNodeNotAvail, ?UnavailableNodes:\S.*",
            "ReqNodeNotAvail",
            _Meaning(
                _NODES,
                "nodes it needs are down, drained or do not answer",
                "it starts when an administrator brings them back",
            ),
        ),
        (
            r"Nodes required for job are DOWN, ?DRAINED or reserved.*",
            "Resources",
            _Meaning(
                _NODES,
                "nodes it needs are down, drained or reserved for jobs in partitions of higher priority",
                "it starts when an administrator brings them back, or those jobs have ended",
            ),
        ),
        (
            r".*launch fail.*held",
            "JobLaunchFailure",
            _Meaning(_HELD, "it could not be launched, and Slurm holds it", f"{_SEE_LOG}; then {_RELEASE}"),
        ),
        (
            r".*user ?env retrieval failed.*held",
            "JobLaunchFailure",
            _Meaning(
                _HELD,
                "the user's environment could not be made on the node, and Slurm holds it",
                f"submit it without `get_user_env` and with a plain `export`; or {_RELEASE}",
            ),
        ),
        (
            r"job requeued in held state",
            "JobHeldUser",
            _Meaning(_HELD, "it was requeued and is held", _RELEASE),
        ),
        (r"Reservation .* was deleted", "ReservationDeleted", None),
        (r"Job's account not (?:permitted|known).* use this partition.*", "AccountNotAllowed", None),
        (r"Job's QOS not (?:permitted|known).* use this partition.*", "QOSNotAllowed", None),
        (r"(?:burst[ _]buffer|datawarp|lua).*(?:error|fail|:).*", "BurstBufferOperation", None),
        (r"Job is at or exceeds .*", "TimeLimit", None),
        (
            r".*\bheld",
            "JobHeldAdmin",
            _Meaning(_HELD, "Slurm holds it", f"{_SEE_LOG}; then {_RELEASE}"),
        ),
    )
)
_UNAVAILABLE_NODES = "unavailablenodes:"
_MAX_DETAIL_CHARACTERS = 200


def parse_reason(text: str | None) -> Reason:
    """Read a reason as squeue, sacct or scontrol print it; None, if they print none.

    Accepted: a code, in parentheses or not; a code, a comma or colon and details; a text in place of a code,
    with spaces or, as scontrol has it, underscores.
    """
    said = (text or "").strip()
    said = (said[1:-1].strip() if said.startswith("(") and said.endswith(")") else said) or "None"
    meaning = _meaning_of(said)
    if meaning is not None:
        return Reason(said, *meaning)
    spaced = said if " " in said else said.replace("_", " ")
    for pattern, code, own in _TEXTS:
        if pattern.fullmatch(spaced):
            return Reason(code, *(own or _known(code)), _detail(spaced))
    code, separator, rest = _split(said)
    meaning = _meaning_of(code.strip()) if separator else None
    if meaning is not None:
        return Reason(code.strip(), *meaning, _short(rest.strip(" _")))
    return Reason(
        said,
        ReasonCategory.UNKNOWN,
        "for a reason that is not in Slurm's documentation",
        "squeue(1) on the cluster, or the site, may explain it",
    )


def documented_reasons() -> tuple[str, ...]:
    """The codes of the table that are not made of parts, in small letters."""
    return tuple(_MEANINGS)


def _split(said: str) -> list[str]:
    """The code, what follows it, and the details, as in "RaisedSignal:9(Killed)" of 24.11."""
    return [*re.split("([,:])", said, maxsplit=1), "", ""][:3]


def _meaning_of(code: str) -> _Meaning | None:
    limit = limit_of(code)
    if limit is not None:
        return _Meaning(_NEVER if limit.is_beyond else _LIMIT, limit.words, limit.ends)
    return _MEANINGS.get(code.lower())


def _known(code: str) -> _Meaning:
    return _MEANINGS[code.lower()]


def _detail(text: str) -> str:
    at = text.lower().find(_UNAVAILABLE_NODES)
    return _short(text if at < 0 else text[at + len(_UNAVAILABLE_NODES) :].strip())


def _short(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL_CHARACTERS else f"{text[:_MAX_DETAIL_CHARACTERS]}..."
