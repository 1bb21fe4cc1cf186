"""The error tree. Every error says what happened, where, and what to do.

    DagsterSlurmError
    ├── InvalidRequestError            the request is at fault; nothing was uploaded, no job was submitted
    │   ├── UnknownArgumentError           not an argument of the call
    │   ├── UnknownOptionError             not an sbatch option
    │   ├── InvalidQuantityError           a duration, an amount of memory or a count that cannot be read
    │   ├── PayloadNotFoundError           no such payload (or extra file) on this machine
    │   └── EnvironmentNotFoundError       no usable environment at that path on the cluster
    ├── EnvironmentBuildError          an environment could not be packed or installed; nothing was submitted
    │   ├── InterpreterNotFoundError       the cluster does not have the Python that it needs
    │   └── WheelNotFoundError             a package has no wheel for the cluster's platform and Python
    ├── ConfigurationError             a resource, an environment variable or a file of settings is wrong
    ├── TransportError                 bytes could not be moved; says nothing about any job
    │   ├── ConnectionFailedError          no connection, or it broke (transient)
    │   ├── TransportTimeoutError          no answer in time; the command may or may not have run (transient)
    │   ├── HostNotFoundError              no host of that name
    │   ├── AuthenticationError            the login was refused
    │   ├── HostKeyError                   the host's key is unknown or has changed
    │   ├── SSHConfigurationError          OpenSSH refuses its options or its configuration
    │   ├── TransferCorruptedError         what arrived is not what was sent (transient)
    │   ├── UnreadableAnswerError          what was answered is no answer of our scripts, or has no end
    │   └── RemoteStorageError             no space, no permission, read-only: the directory cannot be used
    ├── SlurmError                     Slurm answered, and the answer is not usable
    │   ├── SlurmCommandError              a command ended with an error
    │   │   ├── SubmissionRejectedError        sbatch refused: wrong partition, account, limit ...
    │   │   ├── SubmitLimitError               as many jobs are submitted as is allowed (transient)
    │   │   └── SlurmUnavailableError          the controller or the accounting does not answer (transient)
    │   ├── SlurmOutputError               output that no parser knows
    │   ├── SubmissionUnknownError         nobody knows whether the job was submitted
    │   ├── AttemptClosedError             another process has begun a later attempt at the same piece of work
    │   ├── SessionEndedError              the allocation of a session takes no more steps; they go on in the next one
    │   └── ProtocolVersionError           another release made the run directory, and this one cannot go on with it
    ├── JobError                       the job ended, and not with success
    │   ├── JobFailedError                 base of all these ends, and those that have no class of their own
    │   │   ├── PayloadFailedError             the payload itself: its exit code, or a signal
    │   │   ├── JobOutOfMemoryError            it was over its memory
    │   │   ├── JobTimeLimitError              it was over its walltime
    │   │   ├── JobDeadlineError               it could not be done before its deadline
    │   │   ├── JobCancelledError              a user or an administrator has cancelled it
    │   │   ├── JobNotStartedError             it waited longer than it was allowed to
    │   │   │   ├── JobHeldError                   and somebody would have had to release it
    │   │   │   └── JobDependencyError             or it can never start: its dependency is never satisfied
    │   │   ├── JobPreemptedError              another job took its place, and it was not requeued
    │   │   ├── JobNodeFailError               a node failed, and it was not requeued
    │   │   ├── JobBootFailError               its nodes did not boot
    │   │   ├── JobLaunchFailedError           Slurm could not start it on its nodes
    │   │   └── JobEndNotSeenError             Slurm says that it is over, and it wrote no end line
    │   ├── OutputNotFoundError            it completed, and did not leave what it was to leave
    │   └── ResultLostError                it completed, and what it reported cannot be read any more
    ├── LocalStorageError              a file cannot be written on this machine
    └── SandboxError                   the sandbox cluster could not do what was asked

`transient` means: the same call may work later, and nothing about any job follows from this error.
`is_of_request` means: what is asked for or configured is wrong; nothing was submitted; the same again ends the same.
"""

from __future__ import annotations

from collections.abc import Mapping


def reason(said: str, status: int) -> str:
    """Why a program has failed, for an error: what it says, or that it says nothing."""
    return said.strip() or f"it ended with status {status} and said nothing"


class DagsterSlurmError(Exception):
    """Base of all errors this package raises.

    Args:
        message: What happened, one sentence, without a trailing stop; then, on lines of their own, what was said.
        hint: What to do about it, one sentence.
        host: The host it happened on, as the user named it.
        command: The command that was run, fit for a log (never with a secret in it).
        job_id: The Slurm job it concerns.
    """

    transient: bool = False
    is_of_request: bool = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        host: str | None = None,
        command: str | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.host = host
        self.command = command
        self.job_id = job_id

    @property
    def where(self) -> Mapping[str, str]:
        """The known of host, command and job id, in that order."""
        known = {"host": self.host, "command": self.command, "job": self.job_id}
        return {name: value for name, value in known.items() if value}

    @property
    def first_line(self) -> str:
        """What happened, and where.

        A first line that only introduces what a program has said has the last line of that.
        """
        first, _, rest = self.message.partition("\n")
        said = rest.strip().splitlines()
        first += f" {said[-1].strip()}" if said and first.endswith(":") else ""
        place = ", ".join(f"{name} {value}" for name, value in self.where.items())
        return f"{first} [{place}]" if place else first

    def __str__(self) -> str:
        # Lists of runs show the first line, and terminals cut off the end.
        rest = self.message.partition("\n")[2].rstrip("\n")
        return "\n".join(filter(None, (self.first_line, self.advice, rest)))

    @property
    def advice(self) -> str:
        """What to do about it; empty if nobody knows."""
        return self.hint or ""


class InvalidRequestError(DagsterSlurmError, ValueError):
    """The request is at fault. Nothing was uploaded and no job was submitted."""

    is_of_request = True


class UnknownArgumentError(InvalidRequestError, TypeError):
    """A call has no such argument; the message names the nearest."""


class UnknownOptionError(InvalidRequestError):
    """A name that is not an option of sbatch; the message names the nearest known ones."""


class InvalidQuantityError(InvalidRequestError):
    """A duration, an amount of memory or a count that cannot be read."""


class PayloadNotFoundError(InvalidRequestError):
    """The payload, or a file to send along with it, is not on this machine."""


class EnvironmentNotFoundError(InvalidRequestError):
    """The path on the cluster holds none of the layouts of an environment."""


class EnvironmentBuildError(DagsterSlurmError):
    """An environment could not be packed or installed. Nothing was submitted."""


class InterpreterNotFoundError(EnvironmentBuildError):
    """The cluster does not have the interpreter that an environment needs."""

    is_of_request = True


class WheelNotFoundError(EnvironmentBuildError):
    """A package of the lock has no wheel for the cluster's platform and Python."""

    is_of_request = True


_LOOKS = "`dagster-slurm doctor` checks the way to the cluster step by step."


def _with_doctor(hint: str) -> str:
    return hint if "dagster-slurm doctor" in hint else f"{hint} {_LOOKS}".strip()


class ConfigurationError(DagsterSlurmError, ValueError):
    """A resource, an environment variable or a settings file is wrong or incomplete."""

    is_of_request = True

    @property
    def advice(self) -> str:
        """What to do about it, and what finds out more where a host was asked."""
        return _with_doctor(super().advice) if self.host else super().advice


class TransportError(DagsterSlurmError):
    """Bytes could not be moved or a command could not be run; says nothing about any job."""

    @property
    def advice(self) -> str:
        """What to do about it, and what finds out more."""
        return _with_doctor(super().advice)


class ConnectionFailedError(TransportError):
    """No connection could be made, or it broke."""

    transient = True


class TransportTimeoutError(TransportError):
    """No answer in time. The command may or may not have run."""

    transient = True


class HostNotFoundError(TransportError):
    """There is no host of that name, or no name service that knows it."""

    is_of_request = True


class AuthenticationError(TransportError):
    """The login was refused. Never repeated by itself: accounts lock."""

    is_of_request = True


class HostKeyError(TransportError):
    """The host's key is unknown, or is not the one on record."""

    is_of_request = True


class SSHConfigurationError(TransportError, ConfigurationError):
    """OpenSSH refuses its options or its configuration file."""


class TransferCorruptedError(TransportError):
    """The content that arrived differs from the content that was sent; nothing was published."""

    transient = True


class UnreadableAnswerError(TransportError):
    """An answer of the far end is none of our scripts', leads out of a directory, or has no end."""


class RemoteStorageError(TransportError):
    """A directory on the cluster cannot be used: no space, no quota, no permission, read-only."""


class SlurmError(DagsterSlurmError):
    """Slurm answered, and the answer is not usable."""


class SlurmCommandError(SlurmError):
    """A Slurm command ended with an error.

    Args:
        message: What happened.
        returncode: The command's exit status.
        stderr: What it said on stderr.
    """

    def __init__(
        self,
        message: str,
        *,
        returncode: int,
        stderr: str,
        hint: str | None = None,
        host: str | None = None,
        command: str | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, host=host, command=command, job_id=job_id)
        self.returncode = returncode
        self.stderr = stderr

    @property
    def is_missing_program(self) -> bool:
        """Whether the shell has not found the command (POSIX, 2.8.2: status 127)."""
        return self.returncode == 127


class SubmissionRejectedError(SlurmCommandError, InvalidRequestError):
    """`sbatch` refused the request: wrong partition, account, QOS, or over a limit."""


class SlurmUnavailableError(SlurmCommandError):
    """The controller or the accounting daemon does not answer."""

    transient = True


class SubmitLimitError(SlurmCommandError):
    """Slurm takes no more jobs of this user, account or QOS until others have ended; no job exists."""

    transient = True


class SlurmOutputError(SlurmError):
    """Output of a Slurm command that no parser knows."""


class SubmissionUnknownError(SlurmError):
    """Nobody knows whether the job was submitted. So it is never submitted again."""


class AttemptClosedError(SlurmError):
    """Another process has closed the attempt at a piece of work in which this one was about to submit."""


class SessionEndedError(SlurmError):
    """The allocation of a session takes no more steps. The step goes on in the next one."""


class ProtocolVersionError(SlurmError):
    """Another release has made the run directory, and this one does not know its layout. Nothing was submitted."""


class JobError(DagsterSlurmError):
    """The job ended, and not with success."""


class JobFailedError(JobError):
    """The job's payload, or the job itself, failed. Each known cause has a subclass of its own.

    `is_worth_retrying` tells whether the same work may succeed in another job: as it is, or with more memory or time.

    Args:
        message: What happened.
        state: Slurm's state of the job, by its long name.
        exit_code: The payload's exit code, if known.
        signal: The signal that ended it, 0 if none.
        node: Its nodes, in Slurm's compact form (`n[1-3]`).
        kept_path: Where on the cluster script, logs and status were kept, if they were.
        stderr_tail: The last lines of stderr.
        facts: What is known of this kind of end: `asked_mem_mib`, `time_limit_seconds`, `cancelled_by_uid`,
            `node_list`, `reason`.
    """

    is_worth_retrying: bool = False

    def __init__(
        self,
        message: str,
        *,
        state: str,
        exit_code: int | None = None,
        signal: int = 0,
        node: str | None = None,
        kept_path: str | None = None,
        stderr_tail: str = "",
        facts: Mapping[str, int | str] | None = None,
        hint: str | None = None,
        host: str | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, host=host, job_id=job_id)
        self.facts = dict(facts or {})
        self.state = state
        self.exit_code = exit_code
        self.signal = signal
        self.node = node
        self.kept_path = kept_path
        self.stderr_tail = stderr_tail

    @property
    def where(self) -> Mapping[str, str]:
        """Nothing: the message of a failed job says where, in its own order."""
        return {}


class PayloadFailedError(JobFailedError):
    """The payload ended with an exit code, or by a signal, of its own."""


class JobOutOfMemoryError(JobFailedError):
    """The job was over its memory."""

    is_worth_retrying = True


class JobTimeLimitError(JobFailedError):
    """The job was over its walltime."""

    is_worth_retrying = True


class JobDeadlineError(JobFailedError):
    """The job could not be done before its deadline."""


class JobCancelledError(JobFailedError):
    """Somebody has cancelled the job, and not by terminating the run."""


class JobNotStartedError(JobFailedError):
    """The job never started: it waited longer than it was allowed to, or can never start as it was asked for."""


class JobHeldError(JobNotStartedError):
    """The job was held until `max_queue_hours` were over, and nobody has released it."""


class JobDependencyError(JobNotStartedError):
    """The job's dependency can never be satisfied: the job that it was to follow has ended in another way."""


class JobPreemptedError(JobFailedError):
    """Another job took its place, and Slurm did not requeue it."""

    is_worth_retrying = True


class JobNodeFailError(JobFailedError):
    """A node of the job failed, and Slurm did not requeue it."""

    is_worth_retrying = True


class JobBootFailError(JobFailedError):
    """The nodes of the job did not boot."""

    is_worth_retrying = True


class JobLaunchFailedError(JobFailedError):
    """Slurm could not start the job on its nodes."""

    is_worth_retrying = True


class JobEndNotSeenError(JobFailedError):
    """Slurm says that the job has completed, or failed, and its batch script has written no end line: nothing shows it.

    So it is with a runaway job that an administrator has cleared, with a node that lost its power at the end, and with
    a job that was killed from outside, or that Slurm's controller has lost in a crash.
    """

    is_worth_retrying = True


class OutputNotFoundError(JobError):
    """The job completed, and one of its outputs is not there. Nothing was removed."""


class ResultLostError(JobError):
    """The job completed, and its run directory was removed before this process has read it."""


class LocalStorageError(DagsterSlurmError):
    """A file cannot be written on this machine: no space, no permission."""


class SandboxError(DagsterSlurmError):
    """The sandbox cluster could not do what was asked."""
