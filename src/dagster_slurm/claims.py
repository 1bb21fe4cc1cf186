"""The attempts at a piece of work, and who may submit in them.

Everything here is one step on the cluster that succeeds for one process only, and may be repeated by all: see
docs/adr/0002 and 0006. Nothing here decides what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import (
    AttemptClosedError,
    ProtocolVersionError,
    SlurmError,
    SubmissionUnknownError,
    TransportError,
)
from dagster_slurm.run_directory import PROTOCOL_VERSION, RunDirectory, assets_root
from dagster_slurm.slurm import commands, output, rejections
from dagster_slurm.transport import CompletedCommand
from dagster_slurm.transport.shell import shell_file
from dagster_slurm.transport.shell_transport import storage_fault
from dagster_slurm.transport.together import together

READABLE_PROTOCOLS = frozenset({PROTOCOL_VERSION})
"""Versions of run directories that this release can adopt."""

_SUBMIT_PATIENCE_SECONDS = 60
_READ_PATIENCE_SECONDS = 15
_STORAGE_STATUS = 74
_NO_OUTCOME_STATUS = 75
_CLOSED_STATUS = 76
_LARGEST_OWN_STATUS = 128
_REVOKED = "revoked"


@dataclass(frozen=True)
class Attempt:
    """The newest attempt at a piece of work.

    Args:
        directory: Where it lies; of an adopted one, where that lies.
        number: Its number in the launch that was asked about.
        generation: The newest try to submit in it; None if there is none.
        is_closed: Whether nothing can come of it any more: its job ended without success, or it is not there.
        age_seconds: Since when it is there, by the login node's clock.
        description: What its `launch.json` holds.
    """

    directory: RunDirectory
    number: int
    generation: int | None
    is_closed: bool
    age_seconds: int
    description: str


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
    """What there was to cancel in an attempt: jobs by their id, and tries to submit whose job is not known by name."""

    job_ids: tuple[str, ...]
    job_names: tuple[str, ...]


class Claims:
    """The attempts on one cluster.

    Args:
        cluster: The cluster.
    """

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster

    def newest_attempt(self, launch: RunDirectory) -> Attempt | None:
        """The newest attempt at a piece of work; None if none was begun.

        Raises:
            ProtocolVersionError: It was made by a release whose run directories this one does not know.
        """
        printed = self._together("attempt.sh", (launch.launch,)).text
        if not printed:
            return None
        head, _, description = printed.partition("\n")
        number, protocol, generation, state, age, target = head.split(" ")
        directory = launch.of_attempt(int(number))
        if target != "-":
            directory = RunDirectory.from_relative(launch.base, "/".join(PurePosixPath(target).parts[-3:]))
        if state != "gone" and int(protocol) not in READABLE_PROTOCOLS:
            raise self._other_protocol(protocol, directory)
        return Attempt(
            directory,
            int(number),
            int(generation) if int(generation) >= 0 else None,
            state != "open",
            int(age),
            description.strip(),
        )

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
        answer = self._cluster.script("close.sh", (directory.path, str(following), outcome))
        if answer.returncode == _STORAGE_STATUS:
            raise self._storage_error(answer, directory.path)
        return answer.returncode == 0

    def outcomes(self, launch: RunDirectory) -> dict[int, str]:
        """How the jobs of a launch's attempts ended, by the attempt's number, as `close` was told."""
        printed = self._cluster.script("outcomes.sh", (launch.launch,)).text
        lines = (line.split(" ", 1) for line in printed.splitlines() if " " in line)
        return {int(number): outcome for number, outcome in lines}

    def adopt(self, launch: RunDirectory, found: RunDirectory) -> bool:
        """Make an attempt of another launch an attempt of this one, so that whoever looks here finds it.

        Returns:
            False if there is such an attempt already.

        Raises:
            TransportError: The link could not be made.
        """
        args = (launch.launch, str(launch.attempt), f"../../{found.relative}")
        answer = self._cluster.script("adopt.sh", args)
        if answer.returncode == _STORAGE_STATUS:
            raise self._storage_error(answer, launch.launch)
        return answer.returncode == 0

    def attempt_of_asset(self, digest: str) -> RunDirectory | None:
        """The newest attempt that was submitted for an asset and partition, if there was one."""
        base = self._cluster.base()
        target = self._cluster.transport.command(("readlink", "--", f"{assets_root(base)}/{digest}")).text.strip()
        return RunDirectory.from_relative(base, "/".join(PurePosixPath(target).parts[-3:])) if target else None

    def submit(self, directory: RunDirectory, *, generation: int = 0) -> str:
        """Submit the directory's script, once: whoever asks again for the same generation gets the same job id.

        Raises:
            SubmissionRejectedError: sbatch refused; no job exists.
            SlurmUnavailableError: sbatch could not reach Slurm, or lost its answer; there may be a job.
            SubmissionUnknownError: There is no answer of sbatch yet; there may be a job.
        """
        answer = self.try_to_submit(directory, generation=generation)
        if answer.error is not None:
            raise answer.error
        return answer.job_id

    def try_to_submit(self, directory: RunDirectory, *, generation: int) -> SubmitAnswer:
        """As `submit`, with sbatch's refusal as a value, and whether this very call has made the try.

        Raises:
            AttemptClosedError: Another process has closed this attempt.
        """
        argv = commands.sbatch(directory.script, directory.job_name(generation), str(generation))
        return self._ask_claim(directory, generation, _SUBMIT_PATIENCE_SECONDS, argv)

    def submitted(self, directory: RunDirectory, *, generation: int) -> SubmitAnswer:
        """What came of a try to submit that somebody has made."""
        return self._ask_claim(directory, generation, _READ_PATIENCE_SECONDS, ())

    def settle(self, directory: RunDirectory, *, generation: int) -> str | None:
        """Find out what became of a try to submit whose outcome is not known, or make sure that nothing will.

        Asked in this order: who owns the gate; which job of that name Slurm knows. If both say "none", the gate is
        taken here: a job of that try that turns up later ends there without running anything.

        Returns:
            The id of the job that is, or was, in the queue; None if the try is revoked.

        Raises:
            SlurmUnavailableError: The controller does not answer, so that nothing can be settled now.
        """
        claim = directory.claim(generation)
        owner = self.gate_owner(directory, generation=generation)
        if not owner:
            named = self._cluster.transport.command(commands.squeue_by_name(directory.job_name(generation)))
            self._cluster.refuse("squeue", named)
            entries = output.parse_squeue(named.text)
            if entries:
                return entries[0].array_job_id
            owner = self._cluster.script("gate.sh", ("revoke", claim)).text.strip()
        return None if owner == _REVOKED else owner

    def gate_owner(self, directory: RunDirectory, *, generation: int) -> str:
        """The id of the job that took the gate, `revoked`, or nothing."""
        return self._cluster.script("gate.sh", ("owner", directory.claim(generation))).text.strip()

    def withdraw(self, directory: RunDirectory) -> Withdrawn:
        """See to it that no job of an attempt begins its payload any more; what has begun, or may, is returned."""
        answer = self._cluster.script("withdraw.sh", (directory.path,))
        if answer.returncode:
            raise self._storage_error(answer, directory.path)
        words = [line.split(" ") for line in answer.text.splitlines()]
        ids = dict.fromkeys(value for kind, value in words if kind == "id")
        names = tuple(directory.job_name(int(value)) for kind, value in words if kind == "name")
        return Withdrawn(tuple(ids), names)

    def _ask_claim(
        self, directory: RunDirectory, generation: int, patience_seconds: int, sbatch: Sequence[str]
    ) -> SubmitAnswer:
        claim = directory.claim(generation)
        args = (claim, str(patience_seconds), *sbatch)
        answer = self._together("submit.sh", args, timeout_seconds=3.0 * _SUBMIT_PATIENCE_SECONDS)
        if answer.returncode == _STORAGE_STATUS:
            raise self._storage_error(answer, claim)
        if answer.returncode == _CLOSED_STATUS:
            raise AttemptClosedError(f"Another process has closed {directory.path}", host=self._cluster.host)
        first, _, printed = answer.text.partition("\n")
        made_now = first.startswith("made")
        if answer.returncode == _NO_OUTCOME_STATUS:
            return SubmitAnswer("", self._no_outcome(directory, generation), made_now)
        status = int(first.split()[1])
        if status > _LARGEST_OWN_STATUS:
            # sbatch was killed (POSIX, 2.8.2), maybe with its request on the way: Slurm may have taken it.
            return SubmitAnswer("", self._no_outcome(directory, generation), made_now)
        if status:
            said = rejections.classify_error("sbatch", status, answer.error_text, self._cluster.host)
            return SubmitAnswer("", said, made_now)
        return SubmitAnswer(output.parse_job_id(printed), None, made_now)

    def _together(self, name: str, args: Sequence[str], *, timeout_seconds: float = 120.0) -> CompletedCommand:
        """Run a file of `cluster_scripts`, in one round trip with what other threads ask at the same time."""
        script = shell_file("dagster_slurm.cluster_scripts", name)
        return together(self._cluster.transport).run(script, args, timeout_seconds=timeout_seconds)

    def _no_outcome(self, directory: RunDirectory, generation: int) -> SubmissionUnknownError:
        name = directory.job_name(generation)
        return SubmissionUnknownError(
            f"It is not known whether job {name} was submitted",
            hint=f"Look for it with `squeue --me --name={name}`; the claim is {directory.claim(generation)}.",
            host=self._cluster.host,
        )

    def _other_protocol(self, protocol: str, directory: RunDirectory) -> ProtocolVersionError:
        known = ", ".join(map(str, sorted(READABLE_PROTOCOLS)))
        return ProtocolVersionError(
            f"The run directory {directory.path} has protocol version {protocol}; this release knows {known}",
            hint="Nothing was submitted. Let the release that made it finish this piece of work, or cancel its job and "
            "materialise anew.",
            host=self._cluster.host,
        )

    def _storage_error(self, answer: CompletedCommand, what: str) -> TransportError:
        said = answer.reason
        return storage_fault(said, what=what, host=self._cluster.host) or TransportError(
            f"Cannot write {what}: {said}", host=self._cluster.host
        )
