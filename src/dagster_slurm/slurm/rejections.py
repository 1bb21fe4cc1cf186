"""What a Slurm command's message on stderr means, as a table, and the typed error for it.

What sbatch says may be a site's own words (job_submit plugins), on any number of lines. So a pattern is met at the
beginning of what a line says, behind the names of programs and functions, and not anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dagster_slurm.errors import (
    SlurmCommandError,
    SlurmUnavailableError,
    SubmissionRejectedError,
    SubmitLimitError,
)


class _Cause(NamedTuple):
    pattern: re.Pattern[str]
    hint: str
    about: str = ""


def _cause(pattern: str, hint: str, about: str = "") -> _Cause:
    return _Cause(re.compile(pattern, re.IGNORECASE), hint, about)


_UNAVAILABLE = (
    _cause(
        r"unable to contact slurm controller|slurm_load_\w+ error: (?:unable|zero bytes|unexpected)"
        r"|slurm controller is (?:not responding|down)|slurm backup controller in standby",
        "The controller does not answer; the same call may work later.",
    ),
    _cause(
        r"slurmdbd[:\s]|persist_conn|unable to connect to slurm database"
        r"|problem talking to the database",
        "The accounting does not answer; the job itself is not concerned.",
    ),
    # munged is away, here or where the daemons run; or its key is changed, or a clock is put right (slurm_errno.h).
    _cause(
        r"munge (?:en|de)code failed|(?:protocol )?authentication error|invalid authentication credential"
        r"|authentication credential invalid|failed to connect to authentication agent|unable to decode munge",
        "Slurm's daemons do not know who asks (munged, or a clock that is off); the same call may work later.",
    ),
    # In the hours in which a site goes from one release to the next.
    _cause(
        r"incompatible versions of client and server code|unsupported rpc version",
        "Slurm's commands and its daemons are of releases that do not talk to each other; the site may be at it.",
    ),
    _cause(
        r"socket timed out|connection refused|connection timed out|connection reset|no route to host"
        r"|zero bytes were transmitted or received|message send failure|message receive failure"
        r"|communication (?:connection|shutdown) failure|insane message length"
        r"|unexpected missing socket error"
        r"|controller is in standby mode",
        "No connection to Slurm's daemons; the same call may work later.",
    ),
    _cause(
        r"slurmctld (?:is )?busy|resource temporarily unavailable|slurm temporarily unable to accept job"
        r"|too many requests|rate limit",
        "The controller is busy; the same call may work later.",
    ),
)

# Reasons by which slurmctld refuses one job more (job_reason_str, 20.11 to 25.11); other jobs have to end first.
_SUBMIT_LIMIT = re.compile(
    r"\b(?:QOS|Assoc)(?:Max|Grp)SubmitJobs?\w*Limit\b|\bMaxSubmitJobsPerAccount\b", re.IGNORECASE
)

_REJECTED = (
    _cause(r"invalid partition name|invalid partition specified", "`sinfo -s` names the partitions.", "partition"),
    _cause(
        r"invalid account or account/partition combination",
        "`sacctmgr show assoc user=$USER` names the accounts, with the partitions they are good for.",
        "account",
    ),
    _cause(r"invalid qos", "`sacctmgr show assoc user=$USER format=account,partition,qos` names the QOS.", "qos"),
    _cause(
        r"QOSM(?:ax|in)|QOSGrp|AssocMax|AssocGrp|MaxSubmit",
        "A limit of the account or QOS is reached: ask for less, or wait for other jobs to end.",
    ),
    _cause(
        r"requested time limit is invalid|time limit exceeds|invalid --time",
        "Lower time_limit; `sinfo -o '%P %l'` names the limit of each partition.",
    ),
    _cause(
        r"memory (?:required by task|specification)|requested memory|invalid --mem",
        "Lower mem or mem_per_cpu; `sinfo -o '%P %m'` names the memory of the nodes in MB.",
    ),
    _cause(
        r"cpu count (?:per node )?can not be satisfied|more processors requested than permitted",
        "Lower cpus or num_nodes; `sinfo -o '%P %c'` names the CPUs of the nodes.",
    ),
    _cause(
        r"node count specification invalid|requested node count|more nodes requested"
        r"|requested node configuration",
        "No node, or not enough of them, is configured so: compare with `sinfo -N -l`.",
    ),
    _cause(
        r"invalid generic resource|invalid gres|requested gres",
        "`sinfo -o '%P %G'` names the generic resources (GPUs) of the partitions.",
    ),
    _cause(r"invalid feature specification", "`sinfo -o '%P %f'` names the features for constraint."),
    _cause(
        r"(?:access denied to )?requested reservation|invalid reservation",
        "`scontrol show reservation` names the reservations and who may use them.",
    ),
    _cause(r"invalid node name", "`sinfo -N` names the nodes for nodelist and exclude."),
    # So says `sbatch --test-only` (22.05.8) of a dependency that can never be satisfied any more.
    _cause(
        r"requested operation is presently disabled",
        "If `dependency` is set: the job that it names has ended in another way than asked for.",
    ),
    _cause(r"job dependency", "The job named in dependency is not known to Slurm (any more)."),
    _cause(r"invalid license", "`scontrol show licenses` names the licenses."),
    _cause(
        r"unrecognized option|invalid directive|invalid --"
        r"|option '[^']*' (?:is ambiguous|requires an argument|doesn't allow)",
        "This release of Slurm does not take the option or its value; see `man sbatch` on the cluster.",
    ),
    _cause(r"access/permission denied|user's group not permitted", "Slurm refused the request; its message says why."),
)
_REFUSED = _cause(r"batch job submission failed|allocation failure", "Slurm refused the request; its message says why.")
_NO_REASON = re.compile(rf"(?:{_REFUSED.pattern.pattern})?:?", re.IGNORECASE)
# slurmctld takes no more now: MaxJobCount (slurm.conf(5)).
_FULL = re.compile(r"resource temporarily unavailable|unable to create job record, try again", re.IGNORECASE)
# Of sbatch then, which tries again after 1, 2 ... 15 s, two minutes in all, and ends (22.05.8).
_WAITS = re.compile(r"slurm temporarily unable to accept job, sleeping and retrying", re.IGNORECASE)
_MAX_JOB_COUNT = (
    "The controller holds as many jobs, of all users, as its MaxJobCount allows (`scontrol show config`); this one is "
    "submitted when others have ended and been forgotten (MinJobAge)."
)
# A limit of an account or a QOS is named in a line of its own; without one it is a job_submit plugin that throttles.
_POLICY = re.compile(r"job violates accounting/qos policy", re.IGNORECASE)
_THROTTLED = "It is submitted when Slurm takes it; the site knows its limits on submissions."
# What stands in front of what a line says.
_IN_FRONT = re.compile(
    r"(?:(?:s[a-z]+|error|fatal|lua|_?slurm_\w+(?: error)?|batch job submission failed|allocation failure): )*",
    re.IGNORECASE,
)

_NO_ACCOUNTING = re.compile(r"accounting storage is disabled", re.IGNORECASE)
_UNKNOWN_JOB = re.compile(r"invalid job id specified", re.IGNORECASE)
_NODES_NOT_THERE = re.compile(
    r"requested node configuration is not available|required node not available|requested nodes are busy", re.IGNORECASE
)
_COMMAND_NOT_FOUND = 127
_SLURM_S = re.compile(r"s[a-z]+: |slurm_\w+ error: |allocation failure: ", re.IGNORECASE)
_MOST_CHARACTERS = 1000


def classify_error(command: str, returncode: int, stderr: str, host: str | None = None) -> SlurmCommandError:
    """The typed error for a Slurm command that ended with a status other than zero.

    Args:
        command: The command as run, fit for a log; its first word that names a Slurm command decides.
        returncode: Its exit status.
        stderr: What it said on stderr.
        host: The host it ran on.

    Returns:
        SlurmUnavailableError where Slurm's daemons do not answer; SubmitLimitError where sbatch refuses one job
        more; SubmissionRejectedError where it refuses this one; otherwise a plain SlurmCommandError.
    """
    error, hint = _kind(command, returncode, stderr)
    message = _message(stderr) or f"ended with status {returncode}"
    return error(
        f"{_program(command)}: {message}",
        returncode=returncode,
        stderr=stderr,
        hint=hint,
        host=host,
        command=command,
    )


def is_unknown_job(stderr: str) -> bool:
    """Whether squeue, asked for one job, says that it knows none by that id: a successful, empty answer.

    Slurm forgets an ended job after MinJobAge (slurm.conf(5)). Asked for several, squeue leaves such out
    silently.
    """
    return bool(_UNKNOWN_JOB.search(stderr))


def may_wait_for_nodes(stderr: str) -> bool:
    """Whether `sbatch --test-only` may mean no more than that nodes are away at the moment.

    It says the same of a job that no node is large enough for and of one whose node is drained, down or reserved for
    maintenance; sbatch without that option refuses the first and lets the second wait (22.05.8).
    """
    return bool(_NODES_NOT_THERE.search(stderr))


def is_waiting_for_a_place(stderr: str) -> bool:
    """Whether sbatch, which has not ended, has said that it waits until slurmctld takes the job (MaxJobCount)."""
    return bool(_WAITS.search(stderr))


def is_throttled(stderr: str) -> bool:
    """Whether sbatch is refused by a job_submit plugin that counts submissions, and so each `--test-only` it accepts.

    A refused one is not counted (JobSubmitPlugins=throttle, 22.05.8).
    """
    return _kind_of_refusal(stderr)[1] == _THROTTLED


def is_accounting_disabled(stderr: str) -> bool:
    """Whether sacct says that the cluster keeps no accounting at all (AccountingStorageType, slurm.conf(5))."""
    return bool(_NO_ACCOUNTING.search(stderr))


def _kind(command: str, returncode: int, stderr: str) -> tuple[type[SlurmCommandError], str | None]:
    if returncode == _COMMAND_NOT_FOUND:
        return SlurmCommandError, (
            f"{_program(command)} is not on the PATH: use a login node, or load Slurm in post_login_command."
        )
    if is_accounting_disabled(stderr):
        return SlurmCommandError, "The cluster keeps no accounting: outcome and metrics come from the job alone."
    if _program(command) == "sbatch":
        return _kind_of_refusal(stderr)
    unavailable = next((cause for cause in _UNAVAILABLE if cause.pattern.search(stderr)), None)
    return (SlurmUnavailableError, unavailable.hint) if unavailable else (SlurmCommandError, None)


def _kind_of_refusal(stderr: str) -> tuple[type[SlurmCommandError], str | None]:
    reasons = _reasons(_lines(stderr))
    # Slurm's own last word, where it has said one: before it, anything may stand.
    final = _reasons([line for line in _lines(stderr) if _REFUSED.pattern.search(line)])[-1:]
    # It has none where munge comes back while it is waited for (22.05.8).
    final = reasons if not final or _NO_REASON.fullmatch(final[0]) else final
    if any(map(_FULL.match, final)):
        return SubmitLimitError, _MAX_JOB_COUNT
    unavailable = next((cause for cause in _UNAVAILABLE if any(map(cause.pattern.match, final))), None)
    if unavailable:
        return SlurmUnavailableError, unavailable.hint
    if any(map(_SUBMIT_LIMIT.match, reasons)):
        return SubmitLimitError, "It is submitted when others have ended; the site raises the limit, if anybody."
    cause = _cause_of(reasons)
    if cause is None and any(map(_POLICY.match, final)):
        return SubmitLimitError, _THROTTLED
    cause = cause or (_REFUSED if _REFUSED.pattern.search(stderr) else None)
    return (SubmissionRejectedError, cause.hint) if cause else (SlurmCommandError, None)


def _reasons(lines: Sequence[str]) -> list[str]:
    return [_IN_FRONT.sub("", line, count=1) for line in lines]


def _cause_of(reasons: Sequence[str]) -> _Cause | None:
    return next((cause for cause in _REJECTED if any(map(cause.pattern.match, reasons))), None)


def refused_option(stderr: str) -> str:
    """Which of partition, account and QOS sbatch has refused a request for; empty if it is something else."""
    cause = _cause_of(_reasons(_lines(stderr)))
    return cause.about if cause else ""


def _program(command: str) -> str:
    known = re.search(r"(?:^|[\s/])(sbatch|squeue|sacct|scancel|scontrol|sinfo|srun|sacctmgr)(?=\s|$)", command)
    return known.group(1) if known else (command.split() or ["command"])[0]


def _lines(stderr: str) -> list[str]:
    """What a command has said, from its first line on: what stands before that, a shell has said at its start."""
    lines = [line for each in stderr.splitlines() if (line := each.strip()) and not line.startswith('Try "')]
    first = next((number for number, line in enumerate(lines) if _SLURM_S.match(line)), 0)
    return lines[first:]


def _message(stderr: str) -> str:
    """All of its lines: a site's plugin gives its reason on several, and Slurm's own is then "Unspecified error"."""
    said = dict.fromkeys(re.sub(r"^(?:s[a-z]+: )?(?:(?:error|fatal): )?", "", line) for line in _lines(stderr))
    return "; ".join(said)[:_MOST_CHARACTERS]
