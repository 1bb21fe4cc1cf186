"""A Slurm cluster as verbs: check, ask, account, cancel. What submits is in `claims`, what reads directories in `look`.

The one place where the pure core of `slurm/` meets a transport. Nothing here decides anything.
"""

from __future__ import annotations

import posixpath
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dagster_slurm.cluster.shared import Admissions
from dagster_slurm.cluster.submissions import Submissions
from dagster_slurm.errors import (
    ConfigurationError,
    ConnectionFailedError,
    EnvironmentNotFoundError,
    InvalidRequestError,
    RemoteStorageError,
    SlurmCommandError,
    SlurmOutputError,
    SlurmUnavailableError,
    SubmitLimitError,
    TransportError,
)
from dagster_slurm.run_directory import RunDirectory, runs_root
from dagster_slurm.slurm import arrays, commands, output, rejections
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry, UserQueueEntry
from dagster_slurm.slurm.request import JobRequest, render_script
from dagster_slurm.text import as_written
from dagster_slurm.transport import CompletedCommand, Transport
from dagster_slurm.transport.base import reading, whole_number
from dagster_slurm.transport.shell import absolute, is_absolute, variables_in, verb

# Slurm's own default of MaxArraySize (slurm.conf(5)).
_USUAL_ARRAY_SIZE = 1001
# Somebody may put another environment in the place of one.
_LAYOUT_SECONDS = 60.0


@dataclass(frozen=True)
class ClusterFacts:
    """What does not change while a process lives.

    Args:
        home: The home directory.
        user: The user's name.
        version: Slurm's.
        foreign: What of the directories in `remote_base` is not this user's alone; empty if nothing is there.
    """

    home: str
    user: str
    version: tuple[int, int] | None
    foreign: str = ""


@dataclass(frozen=True)
class FilePosition:
    """How far a file, named relative to the runs' directory, was read."""

    name: str
    offset: int


@dataclass(frozen=True)
class Presence:
    """What was found on the cluster.

    Args:
        sizes_bytes: The files that are there, and their sizes.
        missing: The paths that are not.
    """

    sizes_bytes: Mapping[str, int]
    missing: tuple[str, ...]


class SlurmCluster:
    """The cluster behind one transport.

    Args:
        transport: The way to its login node.
        remote_base: Directory there that holds the runs, as `absolute` takes it.
        admissions: What Slurm has said of requests before; None begins anew.
        shares_environments: Whether the group may read what is installed there.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        remote_base: str = "~/dagster_runs",
        admissions: Admissions | None = None,
        shares_environments: bool = False,
    ) -> None:
        self.shares_environments = shares_environments
        self.transport = transport
        self._remote_base = remote_base
        self._facts: ClusterFacts | None = None
        self._interpreters: dict[tuple[str, str, str], CompletedCommand] = {}
        self._layouts: dict[str, tuple[float, str]] = {}
        self._paths: dict[str, str] = {}
        self._largest_array: int | None = None
        self._submissions: Submissions | None = None
        self._admissions = admissions or Admissions()
        self._lock = threading.Lock()
        # Whoever asks the cluster for a layout must not keep those waiting who know all they need.
        self._layout_lock = threading.Lock()
        self._paths_lock = threading.Lock()

    @property
    def host(self) -> str:
        """The login node, for logs and errors."""
        return self.transport.host

    @property
    def submissions(self) -> Submissions:
        """The way of all submissions to it."""
        with self._lock:
            self._submissions = self._submissions or Submissions(self.transport)
            return self._submissions

    def facts(self) -> ClusterFacts:
        """Home directory and Slurm version, asked once.

        Raises:
            ConfigurationError: Slurm's commands are not on the PATH there.
        """
        with self._lock:
            if self._facts is None:
                self._facts = self._ask_facts()
            return self._facts

    def interpreter(self, python: str, setup: str, program: str = "") -> CompletedCommand:
        """What the login node says of its machine and of an interpreter; a good answer is asked for once.

        Args:
            python: By name or path; empty for the machine alone.
            setup: Lines of bash before it.
            program: Another program to look for; empty for none.
        """
        asked = (python, setup, program)
        with self._lock:
            if asked not in self._interpreters:
                answer = self.script("environment_target", asked)
                if answer.returncode:
                    return answer
                self._interpreters[asked] = answer
            return self._interpreters[asked]

    @property
    def was_reached(self) -> bool:
        """Whether this process has had an answer from it."""
        return self._facts is not None

    def base(self) -> str:
        """`remote_base` as an absolute path."""
        if _is_below_home(self._remote_base):
            return self.facts().home + self._remote_base[1:].rstrip("/")
        return self._resolved(self._remote_base, "remote_base", {})

    def absolute(self, path: str, what: str) -> str:
        """A path of the cluster as one absolute path: `~`, variables and what is relative are the login's, asked once.

        Args:
            path: As a person writes it: `/shared/x`, `~/x`, `$SCRATCH/x`, or `x`, which is in the home directory.
            what: What it is, for an error.

        Raises:
            ConfigurationError: A variable is not set there, or it is no path.
        """
        if is_absolute(path):
            return path.rstrip("/") or "/"
        facts = self.facts()
        return self._resolved(path, what, {"HOME": facts.home, "USER": facts.user})

    def _resolved(self, path: str, what: str, known: Mapping[str, str]) -> str:
        with self._paths_lock:
            if path not in self._paths:
                self._paths[path] = resolved(self.transport, path, what, known)
            return self._paths[path]

    def refuse_foreign_base(self) -> None:
        """Refuse a `remote_base` in which somebody else could change what our jobs run.

        Raises:
            RemoteStorageError: It is somebody else's, or a directory of ours in it is, or everybody may write to one.
        """
        foreign = self.facts().foreign
        if foreign:
            raise RemoteStorageError(
                f"Below remote_base {self._remote_base}, {foreign}",
                hint="Users who can write to it can run anything as this user. Choose a remote_base of your own; in a "
                "directory that a group shares, one such as /share/group/$USER.",
                host=self.host,
            )

    def environment_layout(self, path: str) -> str:
        """Which layout of an environment lies at a path: `packed` or `prefix`; for many steps asked once a minute.

        Raises:
            EnvironmentNotFoundError: Neither does.
        """
        with self._layout_lock:
            asked_at, found = self._layouts.get(path, (float("-inf"), ""))
            if time.monotonic() - asked_at < _LAYOUT_SECONDS:
                return found
            found = self.script("environment", (path,)).text
            if found in ("packed", "prefix"):
                self._layouts[path] = time.monotonic(), found
                return found
        problem = "does not exist" if found == "missing" else "is not an environment"
        raise EnvironmentNotFoundError(
            f"The environment {path} {problem}",
            hint="An environment is a directory with `activate.sh` and `env/bin/python`, or with `bin/python`.",
            host=self.host,
        )

    def check(self, request: JobRequest, script: str = "") -> None:
        """Have Slurm say whether it would take a request, without queueing it; each is asked about once.

        Nothing is asked where a question is counted as a submission: sbatch says it then.

        Args:
            request: What is asked for; of a heterogeneous job, for its first component.
            script: What is submitted, where it is not that request alone.

        Raises:
            SubmissionRejectedError: It would not.
            SubmitLimitError: Not now: it takes no more jobs until others have ended.
            SlurmUnavailableError: The controller does not answer.
        """
        self.refuse_foreign_base()
        script = script or render_script(request, output_path="/dev/null", body="true")
        if self._admissions.has_accepted(script):
            return
        with self._admissions.turn():
            if self._admissions.has_accepted(script) or self._admissions.counts_questions():
                return
            self._refuse_while_full()
            try:
                self._ask(request, script)
            except SubmitLimitError:
                if not self._admissions.counts_questions():
                    raise

    def check_again(self, request: JobRequest) -> None:
        """As `check`, for a job that sbatch has refused since there are too many: of all that wait, one asks.

        Where a question is counted as a submission, that one is to submit, and the others are refused meanwhile.
        """
        with self._admissions.turn():
            self._refuse_while_full()
            if self._admissions.counts_questions():
                self._admissions.try_for_others()
            else:
                self._ask(request, render_script(request, output_path="/dev/null", body="true"))

    def _ask(self, request: JobRequest, script: str) -> None:
        try:
            said = self._try(request, script)
        except SubmitLimitError as error:
            self._admissions.fill(error)
            raise
        self._admissions.clear()
        # What may wait for nodes that are away has not been accepted: with them it may be refused.
        if said is not None:
            self._admissions.accept(script)

    def note_refusal(self, error: SubmitLimitError) -> None:
        """Let others know of a refusal of sbatch that a question would not have found without being counted."""
        if rejections.is_throttled(error.stderr):
            self._admissions.fill(error)

    def note_place(self) -> None:
        """Let others know that there is a place again."""
        self._admissions.clear()

    def _refuse_while_full(self) -> None:
        full = self._admissions.full()
        if full is not None:
            raise full

    def start_estimate(self, request: JobRequest, script: str = "") -> datetime | None:
        """When Slurm would start such a job if it were submitted now, an aware time; None if it says none.

        Args:
            request: As for `check`.
            script: As for `check`.

        Raises:
            SubmissionRejectedError: As `check`.
            SubmitLimitError: As `check`.
            SlurmUnavailableError: As `check`.
        """
        self.facts()
        said = self._try(request, script or render_script(request, output_path="/dev/null", body="true"))
        return None if said is None else output.parse_start_estimate(said)

    def room_for_array(self, request: JobRequest, wanted: int, max_parallel: int | None) -> int:
        """How many of so many tasks Slurm takes now, found by halving.

        Raises:
            InvalidRequestError: The cluster has no job arrays.
            SubmissionRejectedError: It takes none, whatever their number.
            SubmitLimitError: Not a single one now: it takes no more jobs until others have ended.
            SlurmUnavailableError: The controller does not answer.
        """
        self.facts()
        with self._admissions.turn():
            self._refuse_while_full()
            tasks = min(wanted, self._array_limit())
            if tasks < 1:
                raise InvalidRequestError(
                    "This cluster takes no job arrays (MaxArraySize is 0)",
                    hint="Have each partition in a run of its own, with `compute.run`.",
                )
            while True:
                array = arrays.array_option(tasks, max_parallel)
                try:
                    self._try(request, render_script(request, output_path="/dev/null", body="true", array=array))
                except SubmitLimitError as error:
                    if tasks == 1 or rejections.is_throttled(error.stderr):
                        self._admissions.fill(error)
                        raise
                    tasks //= 2
                else:
                    self._admissions.clear()
                    return tasks

    def site(self, known_seconds: float) -> tuple[str, bool]:
        """What the cluster says of its partitions and nodes, as `partitions` prints it, and whether it was asked now.

        Args:
            known_seconds: How old an answer, to any process of this user on this machine, may be.

        Raises:
            SlurmUnavailableError: The controller does not answer.
        """
        with self._admissions.turn():
            known = self._admissions.site(known_seconds)
            if known is not None:
                return known, False
            answer = self.script("partitions")
            self.refuse("scontrol", answer)
            self._admissions.tell_site(answer.text)
            return answer.text, True

    def _array_limit(self) -> int:
        """How many tasks an array may have (slurm.conf(5), MaxArraySize: its greatest number is one less)."""
        if self._largest_array is None:
            said = self.transport.command(("scontrol", "show", "config")).text
            found = [line.partition("=")[2].strip() for line in said.splitlines() if line.startswith("MaxArraySize")]
            is_told = bool(found) and re.fullmatch(r"\d{1,9}", found[0], re.ASCII) is not None
            self._largest_array = int(found[0]) if is_told else _USUAL_ARRAY_SIZE
        return self._largest_array

    def _try(self, request: JobRequest, script: str) -> str | None:
        """What `sbatch --test-only` says; None where it cannot tell, since nodes are away."""
        answer = self.transport.command(commands.sbatch_test_only(), stdin=script.encode())
        if answer.returncode and rejections.may_wait_for_nodes(answer.error_text) and self._has_nodes_away(request):
            # sbatch itself takes such a job, which then waits, or refuses it for good.
            return None
        if answer.returncode:
            error = rejections.classify_error("sbatch --test-only", answer.returncode, answer.error_text, self.host)
            raise self._explained(error, request)
        return answer.error_text

    def _has_nodes_away(self, request: JobRequest) -> bool:
        return bool(self.script("nodes_away", (request.partition or "",)).text.strip())

    def _explained(self, error: SlurmCommandError, request: JobRequest) -> SlurmCommandError:
        """Name what was asked for and, for what has a name on the cluster, what there is."""
        option = rejections.refused_option(error.stderr)
        if option:
            asked = getattr(request, option)
            known = self.script("known_names", (option,)).text.splitlines()
            error.message += f" ({option} {as_written(asked)})" if asked else f" (no {option} was asked for)"
            error.hint = f"Known to this user on the cluster: {', '.join(known)}." if known else error.hint
        return error

    def queue(self, job_ids: Sequence[str]) -> Mapping[str, QueueEntry]:
        """What the controller knows of these jobs, and tasks of arrays ("123_7").

        One that is missing has left the queue: nothing more.

        Raises:
            SlurmUnavailableError: The controller does not answer.
        """
        return self.entries_in(self.transport.command(commands.squeue(job_ids)), job_ids)

    def entries_in(self, answer: CompletedCommand, job_ids: Sequence[str]) -> Mapping[str, QueueEntry]:
        """What an answer of squeue holds about these jobs; as `queue`."""
        if answer.returncode and rejections.is_unknown_job(answer.error_text):
            return {}
        self.refuse("squeue", answer)
        return arrays.entries_of(output.parse_squeue(answer.text), job_ids)

    def queue_of_user(self) -> list[UserQueueEntry]:
        """All jobs of this user that the controller knows, also those that ended some minutes ago.

        Raises:
            SlurmUnavailableError: The controller does not answer.
        """
        answer = self.transport.command(commands.squeue_of_user())
        self.refuse("squeue --me", answer)
        return output.parse_squeue_of_user(answer.text)

    def accounting(self, job_ids: Sequence[str], *, tres: bool = False) -> Mapping[str, AccountingRecord] | None:
        """What the accounting knows of these jobs; it may lag behind. None where the cluster keeps none.

        Args:
            job_ids: The jobs.
            tres: Whether trackable resources are wanted, as GPUs are.

        Raises:
            SlurmUnavailableError: The accounting does not answer.
        """
        argv = commands.sacct(job_ids, self.facts().version, tres=tres)
        return self.records_in(self.transport.command(argv), job_ids, tres=tres)

    def usage(
        self, *, since: datetime | None = None, job_ids: Sequence[str] = ()
    ) -> Mapping[str, AccountingRecord] | None:
        """The accounting of this user's jobs with all that it tells; tasks of arrays are jobs. None if none is kept.

        Args:
            since: Of all jobs since then; an aware time.
            job_ids: Without it, of these.

        Raises:
            SlurmUnavailableError: The accounting does not answer.
        """
        version = self.facts().version
        answer = self.transport.command(commands.sacct_of_user(since=since, job_ids=job_ids, version=version))
        if rejections.is_accounting_disabled(answer.error_text):
            return None
        self.refuse("sacct", answer)
        return output.parse_sacct(answer.text, commands.sacct_of_user_fields(version))

    def records_in(
        self, answer: CompletedCommand, job_ids: Sequence[str], *, tres: bool = False
    ) -> Mapping[str, AccountingRecord] | None:
        """What an answer of sacct holds about these jobs; as `accounting`."""
        if rejections.is_accounting_disabled(answer.error_text):
            return None
        self.refuse("sacct", answer)
        fields = commands.sacct_fields(self.facts().version, tres=tres)
        return arrays.records_of(output.parse_sacct(answer.text, fields), job_ids)

    def cancel(self, job_ids: Iterable[str], *, only_pending: bool = False) -> None:
        """Cancel jobs; one that has ended already is no error."""
        answer = self.transport.command(commands.scancel(job_ids, only_pending=only_pending))
        if answer.returncode and not rejections.is_unknown_job(answer.error_text):
            self.refuse("scancel", answer)

    def cancel_by_name(self, names: Iterable[str]) -> None:
        """Cancel this user's jobs of these names; names that no job has are no error."""
        for name in names:
            answer = self.transport.command(commands.scancel_by_name(name, user=self.facts().user))
            if answer.returncode and not rejections.is_unknown_job(answer.error_text):
                self.refuse("scancel", answer)

    def present(self, directory: str, names: Iterable[str], paths: Iterable[str] = ()) -> Presence:
        """Which files lie in a directory there, and which of some other paths do not; nothing is changed.

        Args:
            directory: An absolute path; it need not be there.
            names: Names of files in it, without white space.
            paths: Absolute paths.
        """
        answer = self.script("present", (directory, *paths), stdin="".join(f"{name}\n" for name in names).encode())
        with reading(f"What lies in {directory}", host=self.host):
            lines = [line.split(" ", 1) for line in answer.text.splitlines()]
            there = (rest.split() for word, rest in lines if word == "there")
            return Presence(
                {name: whole_number(size) for name, size in there},
                tuple(rest for word, rest in lines if word == "missing"),
            )

    def touch(self, directory: RunDirectory) -> None:
        """Keep the directory of a run from being taken for old."""
        self.transport.command(("touch", "-c", "--", posixpath.dirname(directory.launch)))

    def read_new(
        self, positions: Sequence[FilePosition], *, max_bytes: int, wait_seconds: float = 0.0
    ) -> Mapping[str, bytes]:
        """What is new in each file, at most `max_bytes` of each, in one round trip; unchanged files are left out.

        Nothing, `b""`, is new in a `status` that is not there any more.

        Args:
            positions: The files, and how far each was read.
            max_bytes: Of each file.
            wait_seconds: How long to wait there for something new, where no other request has to wait for that.
        """
        script = verb("poll", "dagster_slurm.cluster_scripts")
        root, words = runs_root(self.base()), [word for at in positions for word in (str(at.offset), at.name)]
        answer = self.transport.run_aside(script, (root, str(max_bytes), f"{wait_seconds:g}", *words))
        if answer is None:
            answer = self.transport.run(script, (root, str(max_bytes), "0", *words))
        if answer.returncode:
            raise TransportError(f"Cannot read the runs' directory: {answer.reason}", host=self.host)
        with reading("What is new in the runs' directory", host=self.host):
            return _split_blocks(answer.stdout)

    def _ask_facts(self) -> ClusterFacts:
        # Below home it is the script that knows where that is.
        base = self._remote_base if _is_below_home(self._remote_base) else self.base()
        answer = self.script("facts", (base,))
        words = dict(line.split(" ", 1) for line in answer.text.splitlines() if " " in line)
        if answer.returncode or not {"home", "user", "version"} <= set(words):
            raise ConnectionFailedError(f"The login node's answer was cut off: {answer.reason}", host=self.host)
        if "missing" in words:
            raise ConfigurationError(
                f"The command {words['missing']} is not on the PATH",
                hint="Log in where Slurm's commands are, or extend PATH for shells that are not interactive.",
                host=self.host,
            )
        self._refuse_other_clusters(words.get("clusters", ""), words.get("cluster", ""))
        lines = [line.removeprefix("below ") for line in answer.text.splitlines() if line.startswith("below ")]
        foreign = words.get("foreign") or next(
            filter(None, (foreign_part(line, words.get("uid", "")) for line in lines)), ""
        )
        return ClusterFacts(words["home"], words["user"], _version(words["version"]), foreign)

    def _refuse_other_clusters(self, asked: str, own: str) -> None:
        """A login's SLURM_CLUSTERS says where its user's jobs are to go: it is not dropped without a word."""
        if asked and not own:
            said = f"It is not known whether SLURM_CLUSTERS={asked} of the login is its own cluster"
            raise SlurmUnavailableError(said, returncode=1, stderr="", host=self.host)
        if asked != own:
            raise ConfigurationError(
                f"The login sets SLURM_CLUSTERS={asked}, and its own cluster is {own}: jobs would go to {own}",
                hint="Several clusters of one login node are not supported: log in to a node of that cluster, or set "
                "SLURM_CONF to its slurm.conf there; or unset the variable in a post_login_command.",
                host=self.host,
            )

    def script(
        self, name: str, args: Sequence[str] = (), *, stdin: bytes = b"", timeout_seconds: float = 120.0
    ) -> CompletedCommand:
        """Run a verb of `cluster_scripts` with its arguments."""
        script = verb(name, "dagster_slurm.cluster_scripts")
        return self.transport.run(script, args, stdin=stdin, timeout_seconds=timeout_seconds)

    def refuse(self, command: str, answer: CompletedCommand) -> None:
        """Raise the typed error for a Slurm command that has failed."""
        if answer.returncode:
            raise rejections.classify_error(command, answer.returncode, answer.error_text, self.host)


def _is_below_home(path: str) -> bool:
    return (path == "~" or path.startswith("~/")) and variables_in(path) == ("HOME",)


def resolved(transport: Transport, path: str, what: str, known: Mapping[str, str]) -> str:
    """As `SlurmCluster.absolute`, without Slurm.

    Args:
        transport: The way to the login node.
        path: As a person writes it.
        what: What it is, for an error.
        known: Variables whose values are known.

    Raises:
        ConfigurationError: A variable is not set there, or it is no path.
    """
    names = [name for name in variables_in(path) if name not in known]
    said = ""
    if names:
        # One may stand for a relative path.
        names = list(dict.fromkeys([*names, *({"HOME"} - set(known))]))
        said = transport.run(verb("variables", "dagster_slurm.cluster_scripts"), names).text
    lines = (line.partition(" ") for line in said.splitlines())
    variables = {**known, **{name: value for name, _, value in lines if name in names}}
    try:
        return absolute(path, variables)
    except LookupError as error:
        raise ConfigurationError(
            f"{what} is {path!r}, and the login has no variable {error.args[0]}",
            hint="Write the directory itself, or set the variable in the profile of the login.",
            host=transport.host,
        ) from None
    except ValueError as error:
        raise ConfigurationError(
            f"{what} {error}", hint="Begin it with `/`, `~/` or a variable such as `$SCRATCH`.", host=transport.host
        ) from None


def foreign_part(line: str, uid: str) -> str:
    """Why a directory is not a user's alone, from "OWNER MODE KIND/NAME"; empty if it is.

    A link of his own leads where he wants it to. Of a group, its members are trusted: an access control list of a
    project's directory shows as a group that may write.
    """
    owner, _, rest = line.partition(" ")
    mode, _, rest = rest.partition(" ")
    kind, _, name = rest.partition("/")
    if owner != uid:
        return f"{name!r} belongs to somebody else, the user with the number {owner}"
    if kind != "symbolic link" and mode[-1:] in ("2", "3", "6", "7"):
        return f"everybody may write to {name!r} (mode 0{mode})"
    return ""


def _version(text: str) -> tuple[int, int] | None:
    try:
        return output.parse_slurm_version(text)
    except SlurmOutputError:
        return None


def _split_blocks(data: bytes) -> dict[str, bytes]:
    """Take apart what `poll` printed: "NAME OFFSET LENGTH NEWLINE" and LENGTH bytes, again and again."""
    blocks: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, _, length = data[at:end].decode().split(" ")
        at = end + 1 + whole_number(length)
        if at > len(data):
            raise TransportError("A file became shorter while it was read")
        blocks[name] = data[end + 1 : at]
    return blocks
