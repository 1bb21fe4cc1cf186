"""The argument vectors of the Slurm commands this package runs, and the fields they are asked for.

Commands that print times run with TZ=UTC and a fixed SLURM_TIME_FORMAT (squeue(1) and sacct(1), section
ENVIRONMENT VARIABLES), so that `quantities.parse_timestamp` needs no knowledge of the cluster's time zone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm.job_id import JobId

Argv = tuple[str, ...]
SlurmVersion = tuple[int, int]

_TIMES_WITH_OFFSET: Argv = ("env", "SLURM_TIME_FORMAT=%Y-%m-%dT%H:%M:%S%z")
UTC_TIMES: Argv = ("env", "TZ=UTC", "SLURM_TIME_FORMAT=%Y-%m-%dT%H:%M:%S", "LC_ALL=C")

SQUEUE_FIELDS = (
    "job_id",
    "array_job_id",
    "array_task_id",
    "state",
    "submit_time",
    "start_time",
    "reason",
    "node_list",
    "name",
    "work_directory",
)
_SQUEUE_FORMAT = "%A|%F|%K|%T|%V|%S|%r|%N|%j|%Z"

_ASKED_FIELDS = ("partition", "elapsed", "time_left", "time_limit", "nodes", "cpus", "min_memory", "tres_per_node")
_ASKED_FORMAT = "%P|%M|%L|%l|%D|%C|%m|%b"
SQUEUE_OF_USER_FIELDS = (*_ASKED_FIELDS, *SQUEUE_FIELDS)

SACCT_FIELDS = (
    "JobID",
    "JobIDRaw",
    "State",
    "ExitCode",
    "DerivedExitCode",
    "ElapsedRaw",
    "Submit",
    "Eligible",
    "Start",
    "End",
    "NodeList",
    "NNodes",
    "AllocCPUS",
    "NTasks",
    "AllocTRES",
    "ReqTRES",
    "ReqMem",
    "TotalCPU",
    "MaxRSS",
    "TRESUsageInAve",
    "TRESUsageInMax",
    "TRESUsageInTot",
    "Reason",
    "JobName",
    "WorkDir",
)

_RESTARTS_SINCE = (25, 11)
# The states sacct takes (sacct(1), JOB STATE CODES); "COMPLETING is not supported / accounted" (22.05.8).
_ACCOUNTED_STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,RS,RV,S,TO"


def sbatch() -> Argv:
    """Submit; for a script that adds `--job-name=`, a path and its arguments; words without white space.

    The name is an option, since SBATCH_JOB_NAME overrides a directive (sbatch(1)).
    """
    return ("sbatch", "--parsable")


def sbatch_test_only(job_name: str = "dagster-slurm-test") -> Argv:
    """Ask whether a script on stdin would be accepted, and when it would start; nothing is queued, a job id is used up.

    Times are the cluster's own, with their offset: with TZ=UTC, sbatch would take `--begin=16:00` for another time.
    """
    return (*_TIMES_WITH_OFFSET, "sbatch", "--test-only", f"--job-name={_word('job name', job_name)}")


def squeue(job_ids: Iterable[str]) -> Argv:
    """The queue's entries of these jobs of the user, all parts of each, in every state the controller still knows."""
    ids = ",".join(dict.fromkeys(each.in_queue for each in _parsed(job_ids)))
    # For several jobs squeue sends REQUEST_JOB_INFO, which names no job, and with --me REQUEST_JOB_USER_INFO (sdiag of
    # 22.05.8): the user's own in place of the whole cluster's. For one job it names that.
    own = ("--me",) if "," in ids else ()
    return (*_SQUEUE, *own, f"--jobs={ids}")


def squeue_by_name(name: str) -> Argv:
    """The user's own entries of one name."""
    return (*squeue_of_own(), f"--name={_list_item('job name', name)}")


def squeue_of_own() -> Argv:
    """The user's own entries, for a script that adds `--jobs=` or `--name=`; words without white space.

    `--me` is in every release from 20.11 on.
    """
    return (*_SQUEUE, "--me")


def squeue_of_user() -> Argv:
    """All entries of the user, with partition, times and what was asked, in every state the controller still knows."""
    options = ("--noheader", "--states=all", f"--format={_ASKED_FORMAT}|{_SQUEUE_FORMAT}", "--me")
    return (*_WHOLE_LISTS, "squeue", *options)


def sacct_fields(version: SlurmVersion | None = None, *, tres: bool = True) -> tuple[str, ...]:
    """The fields asked of sacct.

    Args:
        version: Major and minor number of the cluster's Slurm, None for the oldest supported.
        tres: With those of trackable resources, for which sacct asks slurmdbd once more (22.05: 183 ms in place of 91).

    Returns:
        Names for `--format`; name and directory, which are free text, are last. `Restarts` is added where it exists.
    """
    extra = ("Restarts",) if version is not None and version >= _RESTARTS_SINCE else ()
    fields = (*SACCT_FIELDS[:-3], *extra, *SACCT_FIELDS[-3:])
    return fields if tres else tuple(name for name in fields if "TRES" not in name)


def sacct(job_ids: Iterable[str], version: SlurmVersion | None = None, *, tres: bool = True) -> Argv:
    """The accounting of these jobs and their steps; with job ids sacct searches from epoch 0."""
    return (*sacct_of_any(version, tres=tres), f"--jobs={_ids(job_ids)}")


def sacct_of_any(version: SlurmVersion | None = None, *, tres: bool = True) -> Argv:
    """The same for a script that adds `--jobs=`; words without white space."""
    fields = ",".join(sacct_fields(version, tres=tres))
    return (*UTC_TIMES, "sacct", "--noheader", "--parsable2", "--duplicates", f"--format={fields}")


def sacct_by_name(name: str, since: datetime, version: SlurmVersion | None = None) -> Argv:
    """The accounting of the user's own jobs of one name, whatever became of them.

    Without a start sacct searches from midnight, with states and without an end not at all (sacct(1), DEFAULT TIME
    WINDOW). Without states it leaves out jobs that never became eligible, such as one cancelled while it was held
    (22.05.8). A job that is still held is in no such answer: `squeue_by_name` has it.

    Args:
        name: The job's name.
        since: An aware time.
        version: As for `sacct_fields`.
    """
    start = since.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    window = (f"--starttime={start}", "--endtime=now+1day", f"--state={_ACCOUNTED_STATES}")
    return (*sacct_of_any(version), f"--name={_list_item('job name', name)}", *window)


def sacct_of_user_fields(version: SlurmVersion | None = None) -> tuple[str, ...]:
    """The fields that `sacct_of_user` asks for."""
    fields = sacct_fields(version)
    return (*fields[:-3], "TimelimitRaw", *fields[-3:])


def sacct_of_user(
    *, since: datetime | None = None, job_ids: Iterable[str] = (), version: SlurmVersion | None = None
) -> Argv:
    """The accounting of the user's own jobs, with their time limits.

    Args:
        since: Of all that have been in the queue, or have run, since then; an aware time.
        job_ids: Without it, of these, whenever they were.
        version: As for `sacct_fields`.
    """
    fields = ",".join(sacct_of_user_fields(version))
    which = (
        f"--jobs={_ids(job_ids)}"
        if since is None
        else f"--starttime={since.astimezone(timezone.utc).strftime('%Y-%m-%dT%H:%M:%S')}"
    )
    return (*UTC_TIMES, "sacct", "--noheader", "--parsable2", "--duplicates", f"--format={fields}", which)


def scancel(job_ids: Iterable[str], signal: str | None = None, *, only_pending: bool = False) -> Argv:
    """Cancel jobs, or send them a signal ("USR1"); `--full` reaches the batch script and all steps.

    Args:
        job_ids: The jobs.
        signal: The signal, without "SIG"; None cancels.
        only_pending: Leave alone a job that has started meanwhile.
    """
    state = ("--state=PENDING",) if only_pending else ()
    return ("scancel", *_signal(signal), *state, *_ids(job_ids).split(","))


def scontrol_forget_dependency(job_id: str) -> Argv:
    """Have a job that waits for another one wait no more; the user's own."""
    return ("scontrol", "update", f"JobId={job_id}", "Dependency=")


def scancel_by_name(name: str, signal: str | None = None, user: str | None = None) -> Argv:
    """Cancel the jobs of one name, of one user if given; only administrators reach other users' jobs."""
    whose = () if user is None else (f"--user={_list_item('user', user)}",)
    return ("scancel", *_signal(signal), *whose, f"--name={_list_item('job name', name)}")


def shell_in_job(job_id: str, directory: str | None, node: str | None = None, component: int | None = None) -> Argv:
    """A shell on a node of a job that runs, beside its other steps (srun(1), `--overlap`, from 20.11 on).

    Args:
        job_id: The job's own number, which a task of an array has, too.
        directory: Where it starts; None for Slurm's choice.
        node: Which node; None for the first.
        component: Of a heterogeneous job, which component; None for what is none.
    """
    group = () if component is None else (f"--het-group={component}",)
    where = ("--relative=0",) if node is None else (f"--nodelist={_list_item('node', node)}",)
    start = () if directory is None else (f"--chdir={_word('directory', directory)}",)
    return (
        "srun",
        f"--jobid={_ids([job_id])}",
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        *group,
        *where,
        *start,
        "--pty",
        "bash",
    )


def scontrol_show_job(job_id: str) -> Argv:
    """Everything the controller knows of one job, on one line for each."""
    return (*UTC_TIMES, "scontrol", "show", "job", "--oneliner", _ids([job_id]))


def sinfo_version() -> Argv:
    """The version of the cluster's Slurm."""
    return ("sinfo", "--version")


# By default squeue cuts the tasks of an array that wait together off after 64 characters (squeue(1), ENVIRONMENT).
_WHOLE_LISTS: Argv = (*UTC_TIMES, "SLURM_BITSTR_LEN=0")
_SQUEUE: Argv = (*_WHOLE_LISTS, "squeue", "--noheader", "--states=all", f"--format={_SQUEUE_FORMAT}")


def _signal(signal: str | None) -> Argv:
    return () if signal is None else (f"--signal={_word('signal', signal)}", "--full")


def _ids(job_ids: Iterable[str]) -> str:
    return ",".join(map(str, _parsed(job_ids)))


def _parsed(job_ids: Iterable[str]) -> list[JobId]:
    words = list(job_ids)
    found = [job_id for word in words if (job_id := JobId.find(word))]
    if not words or len(found) < len(words):
        raise InvalidRequestError(f"not a list of job ids: {words!r}")
    return found


def _list_item(what: str, text: str) -> str:
    if "," in text:
        raise InvalidRequestError(f"a {what} cannot hold a comma here: {text!r}")
    return _word(what, text)


def _word(what: str, text: str) -> str:
    if not text or text.startswith("-") or any(character in text for character in "\0\n\r"):
        raise InvalidRequestError(f"not a {what}: {text!r}")
    return text
