"""A Slurm cluster as verbs: check, submit, look, account, cancel.

The one place where the pure core of `slurm/` meets a transport. Nothing here decides anything.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dagster_slurm.errors import (
    ConfigurationError,
    EnvironmentNotFoundError,
    SlurmCommandError,
    SlurmError,
    SlurmOutputError,
    SubmissionUnknownError,
    TransportError,
)
from dagster_slurm.run_directory import RunDirectory, runs_root
from dagster_slurm.slurm import commands, output, rejections
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.slurm.script import render_script
from dagster_slurm.transport import CompletedCommand, Transport
from dagster_slurm.transport.shell import shell_file
from dagster_slurm.transport.shell_transport import storage_fault

_SUBMIT_PATIENCE_SECONDS = 60
_NO_OUTCOME_STATUS = 75
_STORAGE_STATUS = 74
_REVOKED = "revoked"


@dataclass(frozen=True)
class ClusterFacts:
    """What does not change while a process lives."""

    home: str
    version: tuple[int, int] | None


@dataclass(frozen=True)
class FilePosition:
    """How far a file, named relative to the runs' directory, was read."""

    name: str
    offset: int


@dataclass(frozen=True)
class SubmitAnswer:
    """What came of asking for a submission.

    Args:
        job_id: The job's id; empty with an error.
        error: Why there is none, or why it is not known.
        made_now: Whether the try is of this very call, and not of an earlier one.
    """

    job_id: str
    error: SlurmError | None
    made_now: bool


class SlurmCluster:
    """The cluster behind one transport.

    Args:
        transport: The way to its login node.
        remote_base: Directory there that holds the runs; `~` stands for the home directory.
    """

    def __init__(self, transport: Transport, *, remote_base: str = "~/dagster_runs") -> None:
        self.transport = transport
        self._remote_base = remote_base
        self._facts: ClusterFacts | None = None
        self._accepted: set[str] = set()
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        """The login node, for logs and errors."""
        return self.transport.host

    def facts(self) -> ClusterFacts:
        """Home directory and Slurm version, asked once.

        Raises:
            ConfigurationError: Slurm's commands are not on the PATH there.
        """
        with self._lock:
            if self._facts is None:
                self._facts = self._ask_facts()
            return self._facts

    @property
    def was_reached(self) -> bool:
        """Whether this process has had an answer from it."""
        return self._facts is not None

    def base(self) -> str:
        """`remote_base` as an absolute path."""
        if self._remote_base == "~" or self._remote_base.startswith("~/"):
            return self.facts().home + self._remote_base[1:].rstrip("/")
        if not self._remote_base.startswith("/"):
            raise ConfigurationError(
                f"remote_base {self._remote_base!r} is not an absolute path",
                hint="Start it with `/` or `~/`.",
                host=self.host,
            )
        return self._remote_base.rstrip("/")

    def environment_layout(self, path: str) -> str:
        """Which layout of an environment lies at a path: `packed` or `prefix`.

        Raises:
            EnvironmentNotFoundError: Neither does.
        """
        found = self._run_file("environment.sh", (path,)).text
        if found in ("packed", "prefix"):
            return found
        problem = "does not exist" if found == "missing" else "is not an environment"
        raise EnvironmentNotFoundError(
            f"The environment {path} {problem}",
            hint="An environment is a directory with `activate.sh` and `env/bin/python`, or with `bin/python`.",
            host=self.host,
        )

    def check(self, request: JobRequest) -> None:
        """Have Slurm say whether it would take a request, without queueing it; each is asked about once.

        Raises:
            SubmissionRejectedError: It would not.
            SlurmUnavailableError: The controller does not answer.
        """
        self.facts()
        script = render_script(request, output_path="/dev/null", body="true")
        if script in self._accepted:
            return
        answer = self.transport.command(commands.sbatch_test_only(), stdin=script.encode())
        if answer.returncode:
            error = rejections.classify_error("sbatch --test-only", answer.returncode, answer.error_text, self.host)
            raise self._explained(error, request)
        self._accepted.add(script)

    def _explained(self, error: SlurmCommandError, request: JobRequest) -> SlurmCommandError:
        """Name what was asked for and, for what has a name on the cluster, what there is."""
        for option in ("account", "qos", "partition"):
            asked = getattr(request, option)
            if asked is not None and option in error.message.lower():
                known = self._run_file("names.sh", (option,)).text.split()
                error.message = f"{error.message} ({option} {asked!r})"
                error.hint = f"Known there to this user: {', '.join(known)}." if known else error.hint
                break
        return error

    def submit(self, directory: RunDirectory, *, job_name: str, generation: int = 0) -> str:
        """Submit the directory's script, once: whoever asks again for the same generation gets the same job id.

        Raises:
            SubmissionRejectedError: sbatch refused; no job exists.
            SlurmUnavailableError: sbatch could not reach Slurm, or lost its answer; there may be a job.
            SubmissionUnknownError: There is no answer of sbatch yet; there may be a job.
        """
        answer = self.try_to_submit(directory, job_name=job_name, generation=generation)
        if answer.error is not None:
            raise answer.error
        return answer.job_id

    def try_to_submit(self, directory: RunDirectory, *, job_name: str, generation: int) -> SubmitAnswer:
        """As `submit`, with sbatch's refusal as a value, and whether this very call has made the try."""
        claim = directory.claim(generation)
        argv = commands.sbatch(directory.script, _name_of(job_name, generation), str(generation))
        args = (claim, str(_SUBMIT_PATIENCE_SECONDS), *argv)
        answer = self._run_file("submit.sh", args, timeout_seconds=3.0 * _SUBMIT_PATIENCE_SECONDS)
        if answer.returncode == _STORAGE_STATUS:
            raise self._storage_error(answer, claim)
        first, _, printed = answer.text.partition("\n")
        made_now = first.startswith("made")
        if answer.returncode == _NO_OUTCOME_STATUS:
            hint = f"Look for it with `squeue --me --name={job_name}`; the claim is {claim}."
            text = f"It is not known whether job {job_name} was submitted"
            return SubmitAnswer("", SubmissionUnknownError(text, hint=hint, host=self.host), made_now)
        status = int(first.split()[1])
        if status:
            said = rejections.classify_error("sbatch", status, answer.error_text, self.host)
            return SubmitAnswer("", said, made_now)
        return SubmitAnswer(output.parse_job_id(printed), None, made_now)

    def settle(self, directory: RunDirectory, *, job_name: str, generation: int) -> str | None:
        """Find out what became of a try to submit whose outcome is not known, or make sure that nothing will.

        Asked in this order: who owns the gate; which job of that name Slurm knows. If both say "none", the gate is
        taken here: a job of that try that turns up later ends there without running anything.

        Returns:
            The id of the job that is, or was, in the queue; None if the try is revoked.

        Raises:
            SlurmUnavailableError: The controller does not answer, so that nothing can be settled now.
        """
        claim = directory.claim(generation)
        owner = self._run_file("gate.sh", ("owner", claim)).text.strip()
        if not owner:
            named = self.transport.command(commands.squeue_by_name(_name_of(job_name, generation)))
            self._refuse("squeue", named)
            entries = output.parse_squeue(named.text)
            if entries:
                return entries[0].job_id
            owner = self._run_file("gate.sh", ("revoke", claim)).text.strip()
        return None if owner == _REVOKED else owner

    def queue(self, job_ids: Sequence[str]) -> Mapping[str, QueueEntry]:
        """What the controller knows of these jobs. A job that is missing has left the queue: nothing more.

        Raises:
            SlurmUnavailableError: The controller does not answer.
        """
        answer = self.transport.command(commands.squeue(job_ids))
        if answer.returncode and rejections.is_unknown_job(answer.error_text):
            return {}
        self._refuse("squeue", answer)
        return {entry.job_id: entry for entry in output.parse_squeue(answer.text)}

    def accounting(self, job_ids: Sequence[str]) -> Mapping[str, AccountingRecord] | None:
        """What the accounting knows of these jobs; it may lag behind. None where the cluster keeps none.

        Raises:
            SlurmUnavailableError: The accounting does not answer.
        """
        version = self.facts().version
        answer = self.transport.command(commands.sacct(job_ids, version))
        if rejections.is_accounting_disabled(answer.error_text):
            return None
        self._refuse("sacct", answer)
        return output.parse_sacct(answer.text, commands.sacct_fields(version))

    def cancel(self, job_ids: Iterable[str], *, only_pending: bool = False) -> None:
        """Cancel jobs; one that has ended already is no error."""
        answer = self.transport.command(commands.scancel(job_ids, only_pending=only_pending))
        if answer.returncode and not rejections.is_unknown_job(answer.error_text):
            self._refuse("scancel", answer)

    def read_new(self, positions: Sequence[FilePosition], *, max_bytes: int) -> Mapping[str, bytes]:
        """What is new in each file, at most `max_bytes` of each, in one round trip; unchanged files are left out."""
        words = [word for at in positions for word in (str(at.offset), at.name)]
        answer = self._run_file("poll.sh", (runs_root(self.base()), str(max_bytes), *words))
        if answer.returncode:
            raise TransportError(f"Cannot read the runs' directory: {answer.error_text}", host=self.host)
        return _split_blocks(answer.stdout)

    def _ask_facts(self) -> ClusterFacts:
        answer = self._run_file("facts.sh")
        words = dict(line.split(" ", 1) for line in answer.text.splitlines() if " " in line)
        if "missing" in words:
            raise ConfigurationError(
                f"The command {words['missing']} is not on the PATH",
                hint="Log in where Slurm's commands are, or extend PATH for shells that are not interactive.",
                host=self.host,
            )
        return ClusterFacts(words["home"], _version(words["version"]))

    def _run_file(self, name: str, args: Sequence[str] = (), *, timeout_seconds: float = 120.0) -> CompletedCommand:
        script = shell_file("dagster_slurm.cluster_scripts", name)
        return self.transport.run(script, args, timeout_seconds=timeout_seconds)

    def _refuse(self, command: str, answer: CompletedCommand) -> None:
        if answer.returncode:
            raise rejections.classify_error(command, answer.returncode, answer.error_text, self.host)

    def _storage_error(self, answer: CompletedCommand, what: str) -> TransportError:
        said = answer.error_text
        return storage_fault(said, what=what, host=self.host) or TransportError(
            f"Cannot write {what}: {said}", host=self.host
        )


def _name_of(job_name: str, generation: int) -> str:
    """The job's name: each try to submit has one of its own, by which it can be looked up."""
    return f"{job_name}.{generation}" if generation else job_name


def _version(text: str) -> tuple[int, int] | None:
    try:
        return output.parse_slurm_version(text)
    except SlurmOutputError:
        return None


def _split_blocks(data: bytes) -> dict[str, bytes]:
    """Take apart what poll.sh printed: "NAME OFFSET LENGTH NEWLINE" and LENGTH bytes, again and again."""
    blocks: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, _, length = data[at:end].decode().split(" ")
        at = end + 1 + int(length)
        if at > len(data):
            raise TransportError("A file became shorter while it was read")
        blocks[name] = data[end + 1 : at]
    return blocks
