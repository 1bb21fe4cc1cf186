"""The attempts at a piece of work, and who may submit in them.

A piece of work has attempts (`RunDirectory`), an attempt has tries to submit (`claim/0`, `claim/1` ...). Making the
directory of a try succeeds for one process only (mkdir(2), on NFS too): that one runs sbatch, detached, so that it ends
whatever becomes of the connection; all others read the outcome that it publishes by rename. Where no outcome comes, it
is unknown whether there is a job, and no look-up can tell: it may come later. So each try has a *gate*, a symlink that
the batch script makes as its first act, with the job's id as its target. Whoever makes it runs the payload; a job that
finds it made ends at once. Before there is a next try, the gate of the last one is taken ("revoked"), unless a job
has it. To close an attempt is to make its next try as a symlink, which is then no directory that one could make; to
withdraw it, to take all its gates besides. Each step here succeeds for one, may be repeated by all, and leaves on the
cluster what the next process needs to know. Nothing here decides what comes next.
docs/adr/0002 and 0006 have the reasons.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dagster_slurm.cluster.look import Ask, SlurmAnswers, look
from dagster_slurm.cluster.records import REVOKED, AttemptRecord, ClaimRecord, SbatchAnswer
from dagster_slurm.cluster.slurm_cluster import SlurmCluster
from dagster_slurm.errors import (
    AttemptClosedError,
    ProtocolVersionError,
    SessionEndedError,
    SlurmError,
    SlurmOutputError,
    SlurmUnavailableError,
    SubmissionUnknownError,
    TransportError,
)
from dagster_slurm.run_directory import PROTOCOL_VERSION, RunDirectory
from dagster_slurm.slurm import commands, output, rejections
from dagster_slurm.slurm.output import QueueEntry
from dagster_slurm.transport import CompletedCommand, TreeEntry
from dagster_slurm.transport.base import reading, whole_number
from dagster_slurm.transport.shell_transport import storage_fault

UNSETTLED = (SlurmUnavailableError, SubmissionUnknownError, SlurmOutputError)
"""What sbatch may have said, or not said, of a try that may have a job all the same."""

READABLE_PROTOCOLS = frozenset({PROTOCOL_VERSION})
"""Versions of run directories that this release can adopt."""

_SUBMIT_PATIENCE_SECONDS = 60
# sbatch that waits for a place ends by itself after two minutes; given up before, it could bring a job for nothing.
_PLACE_PATIENCE_SECONDS = 150
# So long do others wait for one that sbatch keeps waiting; it is asked for again.
_ASKED_SECONDS = 5
_STORAGE_STATUS = 74
_NO_OUTCOME_STATUS = 75
_CLOSED_STATUS = 76
_LARGEST_OWN_STATUS = 128
# That of session/mail.sh; sbatch ends with 0 or 1.
_SESSION_ENDED_STATUS = 76


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


@dataclass(frozen=True)
class Withdrawn:
    """What there was to cancel in an attempt.

    Args:
        jobs: The try to submit that brought it, by the job's id.
        job_names: Names of the jobs that tries may have brought of which no id is known.
    """

    jobs: Mapping[str, int]
    job_names: tuple[str, ...]


class Claims:
    """The attempts on one cluster.

    Args:
        cluster: The cluster.
    """

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster

    def close(self, directory: RunDirectory, *, generation: int | None, outcome: str = "") -> bool:
        """Let nobody submit in an attempt any more.

        Args:
            directory: The attempt.
            generation: The newest try to submit in it that is known; None without one.
            outcome: How its job ended, one line; empty if it had none.

        Returns:
            False if somebody has made another try meanwhile.
        """
        following = 0 if generation is None else generation + 1
        answer = self._cluster.script("close", (directory.path, str(following), outcome))
        if answer.returncode == _STORAGE_STATUS:
            raise self._storage_error(answer, directory.path)
        return answer.returncode == 0

    def adopt(self, launch: RunDirectory, found: RunDirectory) -> bool:
        """Make an attempt of another launch an attempt of this one, so that whoever looks here finds it.

        Returns:
            False if there is such an attempt already.

        Raises:
            TransportError: The link could not be made.
        """
        args = (launch.launch, str(launch.attempt), f"../../{found.relative}")
        answer = self._cluster.script("adopt", args)
        if answer.returncode == _STORAGE_STATUS:
            raise self._storage_error(answer, launch.launch)
        return answer.returncode == 0

    def submit(self, directory: RunDirectory, files: Sequence[TreeEntry] = (), *, generation: int = 0) -> str:
        """Submit the directory's script, once: whoever asks again for the same generation gets the same job id.

        Raises:
            SubmissionRejectedError: sbatch refused; no job exists.
            SlurmUnavailableError: sbatch could not reach Slurm, or lost its answer; there may be a job.
            SubmissionUnknownError: There is no answer of sbatch yet; there may be a job.
        """
        answer = self.try_to_submit(directory, files, generation=generation)
        if answer.error is not None:
            raise answer.error
        return answer.job_id

    def try_to_submit(
        self,
        directory: RunDirectory,
        files: Sequence[TreeEntry] = (),
        *,
        generation: int,
        slow: Callable[[str], None] = lambda said: None,
    ) -> SubmitAnswer:
        """As `submit`, with sbatch's refusal as a value, and whether this very call has made the try.

        Args:
            directory: The attempt.
            files: What it is made of, unless it is there; small ones, see `are_small`.
            generation: Which try it is.
            slow: Called, maybe again and again, with what there is to say of an sbatch that takes long.

        Raises:
            AttemptClosedError: Another process has closed this attempt.
        """
        made_now, begun = False, time.monotonic()
        while True:
            patience = min(_ASKED_SECONDS, _SUBMIT_PATIENCE_SECONDS)
            answer = self._cluster.submissions.ask(directory, generation, files, patience_seconds=patience)
            self._refuse_claim(answer, directory, directory.claim(generation))
            first, _, printed = answer.text.partition("\n")
            made_now = made_now or first.startswith("made")
            if answer.returncode != _NO_OUTCOME_STATUS:
                break
            waits_for_a_place = rejections.is_waiting_for_a_place(answer.error_text)
            most = _PLACE_PATIENCE_SECONDS if waits_for_a_place else _SUBMIT_PATIENCE_SECONDS
            if time.monotonic() - begun >= most:
                return SubmitAnswer("", self._no_outcome(directory, generation), made_now)
            line = answer.error_text.partition("\n")[0]
            so_far = f"it has printed {line!r}" if line else "it has printed no error"
            slow(f"sbatch on {self._cluster.host} has not ended after {patience} s; {so_far}")
            files = ()
        with reading("How sbatch has ended", host=self._cluster.host):
            status = whole_number(first.split()[1])
        said = self._said(SbatchAnswer(status, printed, answer.error_text), directory, generation)
        return SubmitAnswer("", said, made_now) if isinstance(said, SlurmError) else SubmitAnswer(said, None, made_now)

    def newest(self, directory: RunDirectory) -> int:
        """The number of the newest try to submit in an attempt; 0 without one."""
        attempt = look(self._cluster, [directory]).listing.attempts(directory).get(directory.attempt)
        return (attempt.generation if attempt else None) or 0

    def _refuse_claim(self, answer: CompletedCommand, directory: RunDirectory, claim: str) -> None:
        if answer.returncode == _STORAGE_STATUS:
            raise self._storage_error(answer, claim)
        if answer.returncode == _CLOSED_STATUS:
            raise AttemptClosedError(f"Another process has closed {directory.path}", host=self._cluster.host)

    def _said(self, answer: SbatchAnswer, directory: RunDirectory, generation: int) -> str | SlurmError:
        """The job's id, or why there is none, or why it is not known."""
        if answer.status > _LARGEST_OWN_STATUS:
            # sbatch was killed (POSIX, 2.8.2), maybe with its request on the way: Slurm may have taken it.
            return self._no_outcome(directory, generation)
        if answer.status == _SESSION_ENDED_STATUS and not answer.stdout:
            return SessionEndedError(f"The session of {directory.path} takes no more steps", host=self._cluster.host)
        if answer.status:
            return rejections.classify_error("sbatch", answer.status, answer.stderr, self._cluster.host)
        try:
            return output.parse_job_id(answer.stdout)
        except SlurmOutputError as error:
            error.host = self._cluster.host
            error.hint = "A job that it has brought is looked for by its name, and ends at its gate if it is not found."
            return error

    def job_id(self, attempt: AttemptRecord, seen: SlurmAnswers) -> str | None:
        """The job of the newest try to submit that somebody has made in an attempt; if it is not known, it is settled.

        Args:
            attempt: The attempt, as it was seen.
            seen: What Slurm said at the same look.

        Returns:
            The id of the job that is, or was, in the queue; None if there is none, and will be none.
        """
        if attempt.is_closed or not attempt.claims:
            return None
        claim = attempt.claims[-1]
        if claim.owner:
            return None if claim.owner == REVOKED else claim.owner
        said = self._said(claim.answer, attempt.directory, claim.generation) if claim.answer else None
        if said is None or isinstance(said, UNSETTLED):
            return self._settled(attempt.directory, claim.generation, seen)
        return None if isinstance(said, SlurmError) else said

    def settle(self, directory: RunDirectory, *, generation: int) -> str | None:
        """Find out what became of a try to submit whose outcome is not known, or make sure that nothing will.

        Returns:
            The id of the job that is, or was, in the queue; None if the try is revoked.

        Raises:
            SlurmUnavailableError: The controller does not answer, so that nothing can be settled now.
        """
        seen = look(self._cluster, [directory], ask=Ask.LOST)
        owner = seen.listing.gate_owner(directory, generation)
        if not owner:
            return self._settled(directory, generation, seen.slurm)
        return None if owner == REVOKED else owner

    def _settled(self, directory: RunDirectory, generation: int, seen: SlurmAnswers) -> str | None:
        """The job that Slurm knows by its name; without one the gate, which was free, is taken here.

        A job of that try that turns up later ends there without running anything.
        """
        name = directory.job_name(generation)
        named = seen.names[name] if name in seen.names else self._queued(name)
        if named is not None:
            return named.array_job_id
        claim = directory.claim(generation)
        answer = self._cluster.script("revoke", (claim,))
        if answer.returncode:
            raise self._storage_error(answer, claim)
        owner = answer.text.strip()
        return None if owner == REVOKED else owner

    def _queued(self, name: str) -> QueueEntry | None:
        answer = self._cluster.transport.command(commands.squeue_by_name(name))
        self._cluster.refuse("squeue", answer)
        # Of the components of a heterogeneous job, the leader has the lowest number.
        return min(output.parse_squeue(answer.text), key=lambda entry: int(entry.job_id), default=None)

    def withdraw(self, directory: RunDirectory, *, is_coming: bool = False) -> Withdrawn:
        """See to it that no job of an attempt begins its payload any more; what has begun, or may, is returned.

        Args:
            directory: The attempt.
            is_coming: Whether a request on its way may make it, and submit, after this call.
        """
        args = (directory.path, *([str(PROTOCOL_VERSION)] if is_coming else []))
        answer = self._cluster.script("withdraw", args)
        if answer.returncode:
            raise self._storage_error(answer, directory.path)
        with reading(f"What was withdrawn in {directory.path}", host=self._cluster.host):
            tries = list(_tries_in(answer.text))
        jobs = {claim.job_id: claim.generation for claim in tries if claim.job_id}
        return Withdrawn(jobs, tuple(directory.job_name(claim.generation) for claim in tries if not claim.job_id))

    def _no_outcome(self, directory: RunDirectory, generation: int) -> SubmissionUnknownError:
        name = directory.job_name(generation)
        return SubmissionUnknownError(
            f"It is not known whether job {name} was submitted",
            hint=f"Look for it with `squeue --me --name={name}`; the claim is {directory.claim(generation)}.",
            host=self._cluster.host,
        )

    def refuse_other_protocol(self, attempt: AttemptRecord) -> None:
        """Refuse to go on with an attempt of a release whose run directories this one does not know, if it is there.

        Raises:
            ProtocolVersionError: It is one.
        """
        known = sorted(READABLE_PROTOCOLS)
        if not attempt.protocol or attempt.protocol in map(str, known):
            return
        raise ProtocolVersionError(
            f"The run directory {attempt.directory.path} has protocol version {attempt.protocol}; this release knows "
            f"{', '.join(map(str, known))}",
            hint="Nothing was submitted. Let the release that made it finish this piece of work, or cancel its job and "
            "materialise anew.",
            host=self._cluster.host,
        )

    def _storage_error(self, answer: CompletedCommand, what: str) -> TransportError:
        said = answer.reason
        return storage_fault(said, what=what, host=self._cluster.host) or TransportError(
            f"Cannot write {what}: {said}", host=self._cluster.host
        )


def _tries_in(text: str) -> Iterator[ClaimRecord]:
    """The tries to submit, from what `withdraw` prints: "GENERATION gate OWNER", and "GENERATION said LINE"."""
    owners: dict[int, str] = {}
    said: dict[int, list[str]] = {}
    for line in text.split("\n")[:-1]:
        generation, kind, rest = line.split(" ", 2)
        number = whole_number(generation)
        if kind == "gate":
            owners[number] = rest
        else:
            said.setdefault(number, []).append(rest)
    for number, owner in owners.items():
        yield ClaimRecord(number, SbatchAnswer(0, "\n".join(said.get(number, ()))), owner)
