"""The reasons that name a limit of an association or a QOS: 163 codes, made of four parts.

Such as `QOSMaxCpuPerUserLimit`: whose limit, of which kind, on what, and measured how. Source: the page "Job Reason
Codes" (https://slurm.schedmd.com/job_reason_codes.html); what each limit counts: "Resource Limits"
(https://slurm.schedmd.com/resource_limits.html) and sacctmgr(1).
"""

from __future__ import annotations

import re
from typing import NamedTuple

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
