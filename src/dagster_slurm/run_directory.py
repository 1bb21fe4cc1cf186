"""The directory of one attempt on the cluster: every path in it, made in one step, removed in one step.

{base}/runs/{run}/{key}/        the launch: one piece of work
{attempt}/                      0, 1, ...; or a link to another launch's attempt that was adopted
protocol            version of this layout
launch.json         which piece of work it is, and of what; for people and for `dagster-slurm jobs`
asset               what stands for its asset and partition, if it has any
job.sh              the batch script
session             of a step of a session: the directory and the job of its allocation, and what it asks for
env.sh              the environment of the payload, 0600: it may hold secrets
pipes/context.json  the Dagster Pipes context
work/               payload and extra files; the payload's working directory
log/                stdout.N stderr.N messages.N usage.N for the N-th restart; status; slurm.log
claim/{generation}/ who submitted, what sbatch answered, and the gate; a link `closed` in the place of the next one
                    means that nothing can be submitted in this attempt any more

Of a job array each task has a place of its own in the attempt, and of a heterogeneous job each component:
elements/{number}/  env.sh, pipes/, work/ and log/ as above; work/ of the attempt is shared by tasks. Of a component
                    component.sh is its batch script, and bin/srun what asks for steps of its own nodes

{base}/runs/{run}/{key}/checkpoint  what payloads keep for the next attempt
{base}/assets/{digest}          a link to the newest attempt for an asset and its partition
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.slurm.request import TASK
from dagster_slurm.transport import Transport, TreeEntry
from dagster_slurm.transport.shell import verb

PROTOCOL_VERSION = 1
"""Version of this layout and of the files in it; a newer release reads it to know whether it may adopt."""

STREAMS = ("stdout", "stderr", "messages")


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one attempt at a piece of work.

    Args:
        base: Absolute path of `remote_base`.
        run: Name of the origin run's directory.
        key: Name of the launch's directory within it.
        attempt: Its number: there is a next one only when the job of this one ended without success.
        element: Which task of a job array is meant; None for the attempt as a whole.
    """

    base: str
    run: str
    key: str
    attempt: int = 0
    element: int | None = None

    @property
    def path(self) -> str:
        """The directory itself."""
        return f"{self.base}/runs/{self.relative}"

    @property
    def relative(self) -> str:
        """The directory relative to `runs_root`."""
        return f"{self.run}/{self.key}/{self.attempt}"

    @property
    def place(self) -> str:
        """Where a payload finds what is its own: the directory itself, or that of a task."""
        return f"{self.path}{self._below}"

    @property
    def _below(self) -> str:
        return "" if self.element is None else f"/elements/{self.element}"

    @property
    def launch(self) -> str:
        """The directory of all attempts."""
        return f"{self.base}/runs/{self.run}/{self.key}"

    @classmethod
    def from_relative(cls, base: str, relative: str) -> RunDirectory:
        """The directory that `relative` names.

        Raises:
            ValueError: It names none.
        """
        run, key, attempt = relative.split("/")
        if not all(map(_PART.fullmatch, (run, key))) or not attempt.isdecimal() or len(attempt) > _MOST_DIGITS:
            raise ValueError(f"{relative[:200]!r} is not the directory of an attempt")
        return cls(base, run, key, int(attempt))

    @classmethod
    def from_work(cls, path: str | None) -> RunDirectory | None:
        """The directory of whose `work` this is the path; None if it is none."""
        base, found, relative = (path or "").removesuffix("/work").rpartition("/runs/")
        try:
            return cls.from_relative(base, relative) if found and (path or "").endswith("/work") else None
        except ValueError:
            return None

    def of_attempt(self, attempt: int) -> RunDirectory:
        """Another attempt at the same piece of work."""
        return replace(self, attempt=attempt)

    def of_element(self, element: int) -> RunDirectory:
        """The place of one task of a job array."""
        return replace(self, element=element)

    def job_name(self, generation: int = 0) -> str:
        """Slurm's name of the job: each try to submit has one of its own, by which it can be looked up."""
        return f"{self.key}.{self.attempt}.{generation}" if self.attempt or generation else self.key

    def try_named(self, job_name: str) -> tuple[int, int] | None:
        """The numbers of the attempt at this piece of work, and of the try to submit, of this name; None if none."""
        found = re.fullmatch(rf"{re.escape(self.key)}(?:\.([0-9]{{1,9}})\.([0-9]{{1,9}}))?", job_name)
        return (int(found[1] or 0), int(found[2] or 0)) if found else None

    def is_of(
        self, said: QueueEntry | AccountingRecord, *, generation: int | None, started_at: float | None = None
    ) -> bool:
        """Whether what Slurm says of a job is about one of this directory.

        Its number tells nothing: numbers come again (MaxJobId, slurm.conf(5); a controller that has lost its state). A
        site's job_submit plugin may change the name, and `--chdir` the directory.

        Args:
            said: What Slurm says.
            generation: Which try to submit brought it.
            started_at: When its batch script began, if that is known.
        """
        if (said.work_directory or "").endswith(f"/runs/{self.relative}/work"):
            return True
        is_near = isinstance(said, AccountingRecord) and said.has_start_near(started_at)
        return is_near or said.name == self.job_name(generation or 0)

    @property
    def script(self) -> str:
        """The batch script."""
        return f"{self.path}/job.sh"

    @property
    def env_file(self) -> str:
        """The payload's variables."""
        return f"{self.place}/env.sh"

    @property
    def work(self) -> str:
        """The payload's working directory."""
        return f"{self.place}/work"

    @property
    def slurm_log(self) -> str:
        """What Slurm itself, and the batch script before its payload, say."""
        return f"{self.place}/log/slurm.log"

    @property
    def slurm_log_of_each(self) -> str:
        """The same of every task of an array, for `render_script`."""
        return f"{self.path}/elements/{TASK}/log/slurm.log"

    @property
    def checkpoint(self) -> str:
        """What a payload keeps for the next attempt; the same directory for all of them."""
        return f"{self.launch}/checkpoint"

    @property
    def context(self) -> str:
        """The Pipes context."""
        return f"{self.place}/pipes/context.json"

    @property
    def messages(self) -> str:
        """Where the payload writes its Pipes messages; points to the file of the current incarnation."""
        return f"{self.place}/log/messages"

    def claim(self, generation: int) -> str:
        """The claim of one try to submit."""
        return f"{self.path}/claim/{generation}"

    def log_name(self, name: str) -> str:
        """A file of `log/`, relative to `runs_root`, as the watcher asks for it."""
        return f"{self.relative}{self._below}/log/{name}"

    def files(
        self,
        *,
        script: str,
        env: str,
        context: bytes,
        work: Iterable[TreeEntry],
        tasks: Iterable[TreeEntry] = (),
        description: str = "{}",
        asset_digest: str = "",
        more: Iterable[TreeEntry] = (),
    ) -> list[TreeEntry]:
        """Everything the job needs, for one stream that appears as a whole or not at all.

        The files that the watcher reads are made empty: a file that is looked for before it exists stays
        missing for a while on NFS (negative look-ups, nfs(5)).
        """
        return [
            TreeEntry("protocol", f"{PROTOCOL_VERSION}\n".encode()),
            TreeEntry("launch.json", f"{description}\n".encode()),
            *([TreeEntry("asset", f"{asset_digest}\n".encode())] if asset_digest else []),
            TreeEntry("job.sh", script.encode(), 0o700),
            TreeEntry("env.sh", env.encode()),
            TreeEntry("pipes/context.json", context),
            *(TreeEntry(f"work/{entry.name}", entry.source, entry.mode) for entry in work),
            *_log_files("log"),
            *tasks,
            *more,
            TreeEntry("claim/"),
        ]

    def remove(self, transport: Transport) -> None:
        """Remove all attempts, in the background of the login node."""
        remove_launches(transport, [self])

    def trim(self, transport: Transport) -> None:
        """Keep script, status and the end of stderr; remove the rest, secrets first of all."""
        transport.run(verb("trim", "dagster_slurm.cluster_scripts"), (self.path,))


def remove_launches(transport: Transport, launches: Sequence[RunDirectory]) -> None:
    """Remove all attempts at some pieces of work, in the background of the login node."""
    if launches:
        script = verb("remove", "dagster_slurm.cluster_scripts")
        transport.run(script, [each.launch for each in launches])


def task_files(element: int, *, env: str, context: bytes) -> list[TreeEntry]:
    """What one task of a job array finds in its place."""
    place = f"elements/{element}"
    return [
        TreeEntry(f"{place}/env.sh", env.encode()),
        TreeEntry(f"{place}/pipes/context.json", context),
        *_log_files(f"{place}/log"),
    ]


def _log_files(directory: str) -> list[TreeEntry]:
    files = [TreeEntry(f"{directory}/{name}", b"") for name in ("status", *(f"{stream}.0" for stream in STREAMS))]
    return [*files, TreeEntry(f"{directory}/messages", link="messages.0")]


def runs_root(base: str) -> str:
    """The directory that holds the runs."""
    return f"{base}/runs"


_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]+")
_MOST_DIGITS = 9
_MAX_READABLE_CHARACTERS = 48
ONE = ""
"""The only unit of a piece of work that has no elements."""


@dataclass(frozen=True)
class LaunchKey:
    """One piece of work: it has exactly one job that runs its payload.

    Not part of it are the run's id, the retry's number, and the content of payload, environment or options: a
    deploy changes those, and deploys are what restarts.

    Args:
        origin_run_id: The run in which this piece of work was first asked for.
        step_key: Dagster's step key, with the mapping key if there is one.
        partition_keys: The partition keys, in order; empty for an unpartitioned asset.
        call: Name, or ordinal, of the `compute.run` call within the step.
    """

    origin_run_id: str
    step_key: str
    partition_keys: tuple[str, ...] = ()
    call: str = "0"

    @property
    def digest(self) -> str:
        """A short name of the key, the same on every machine."""
        return short_digest(self.origin_run_id, self.step_key, list(self.partition_keys), self.call)

    @property
    def directory_name(self) -> str:
        """A file name, readable and unique within the run; Slurm's jobs are named after it."""
        return f"{_readable(self.step_key)}-{self.digest}"

    def first_attempt(self, base: str) -> RunDirectory:
        """Where the first attempt at this piece of work lies on a cluster."""
        return RunDirectory(base, _readable(self.origin_run_id), self.directory_name)


@dataclass(frozen=True)
class JobHandle:
    """A submitted job: enough to find it again from another process.

    Args:
        directory: Where it lies.
        job_id: Slurm's id; of a step of a session that of its request, "12.r7".
        generation: Which try to submit brought it.
        components: Of how many components it is; 0 for what is no heterogeneous job.
        session: Where the allocation lies that it is a step of; None for a job.
    """

    directory: RunDirectory
    job_id: str
    generation: int = 0
    components: int = 0
    session: RunDirectory | None = None

    def of(self, element: int) -> JobHandle:
        """One task of a job array, one component of a heterogeneous job, or one element of a step."""
        part_id = part_of_job(self.job_id, element, self.components)
        return replace(self, directory=self.directory.of_element(element), job_id=part_id, components=0)

    def is_of(self, said: QueueEntry | AccountingRecord, *, started_at: float | None = None) -> bool:
        """As `RunDirectory.is_of`; of a step, what Slurm says of its allocation is about it as well."""
        is_own = self.directory.is_of(said, generation=self.generation, started_at=started_at)
        return is_own or (self.session is not None and self.session.is_of(said, generation=None))


def part_of_job(job_id: str, element: int, components: int = 0) -> str:
    """Slurm's id of one task of an array, or of one component of so many. One alone is a job as any other."""
    whole = JobId.parse(job_id)
    if components:
        return str(whole if components == 1 else whole.of_component(element))
    return str(whole.of_task(element))


def short_digest(*parts: object) -> str:
    """Twelve hexadecimal digits that stand for values which JSON can write, the same on every machine."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _readable(text: str) -> str:
    return _UNSAFE.sub("_", text).strip(".-")[:_MAX_READABLE_CHARACTERS] or "_"
