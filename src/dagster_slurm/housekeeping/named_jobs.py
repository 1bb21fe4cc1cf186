"""Which jobs somebody means who names a job or a run, and what their payloads have said."""

from __future__ import annotations

import codecs
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.description import Description, EndMark, OverMark, StartMark, parse_marks
from dagster_slurm.cluster.slurm_cluster import FilePosition
from dagster_slurm.errors import InvalidRequestError, SlurmCommandError
from dagster_slurm.housekeeping.jobs_table import JobRow, Shown, Wanted, WordOf, shown
from dagster_slurm.housekeeping.listed_jobs import SeenJob, Snapshot
from dagster_slurm.run_directory import JobHandle, RunDirectory, part_of_job
from dagster_slurm.slurm import arrays
from dagster_slurm.slurm.job_id import JobId, title_of
from dagster_slurm.text import counted

LEAST_OF_A_RUN = 4
"""How much of a run's id names it."""


@dataclass(frozen=True)
class Chosen:
    """A job, or a task of an array or a component of a heterogeneous job, that was named.

    Args:
        job: The job; of a part, the whole.
        row: What is shown of that.
        task: The number of the part; None for all of it.
    """

    job: SeenJob
    row: JobRow
    task: int | None = None

    @property
    def job_id(self) -> str:
        """As Slurm writes it: "12", "12_3", "12+1" or "12.4"."""
        if self.job.is_step and self.task is None:
            return self.row.job_id
        return self.job.job_id if self.task is None else part_of_job(self.job.job_id, self.task, self._components)

    @property
    def component(self) -> int | None:
        """Which component it is of a heterogeneous job; None for what is none."""
        return self.task if self._components > 1 else None

    @property
    def _components(self) -> int:
        return self.job.attempt.description.components if self.job.attempt else 0

    @property
    def place(self) -> RunDirectory | None:
        """Where its payload runs; None if Slurm does not know."""
        whole = self.job.place
        return whole if whole is None or self.task is None else whole.of_element(self.task)

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"{title_of(self.job_id)} ({self.row.asset or 'no asset'}, run {self.row.run_id or 'not known'})"

    @property
    def handle(self) -> JobHandle:
        """What tells it from another job of its number: its name, or its directory."""
        # By its name alone: `RunDirectory.job_name` is the key of a first try.
        place = self.job.place or RunDirectory("", "", self.job.name)
        generation = self.job.claim.generation if self.job.claim else (place.try_named(self.job.name) or (0, 0))[1]
        # A step is what its session was asked for, whatever Slurm's number of it is.
        job_id = self.job.job_id if self.job.is_step else self.job_id
        session = self.job.attempt.session if self.job.attempt else None
        return JobHandle(place, job_id, generation, session=session)

    @property
    def is_live(self) -> bool:
        """Whether squeue says that it has not ended."""
        if self.task is None or self._components:
            return self.job.is_live
        return any(not each.entry.state.is_terminal for each in self.job.tasks if self._is_of(each.entry.array_task_id))

    @property
    def own_number(self) -> str | None:
        """The number of the job that runs, which a task has besides its id; None while it does not run."""
        if (self.task is None and not self.job.tasks) or self._components:
            return JobId.parse(self.job.job_id).in_queue if self.job.is_live else None
        running = [each.entry for each in self.job.tasks if not each.entry.state.is_terminal and each.entry.node_list]
        return next((entry.job_id for entry in running if self._is_of(entry.array_task_id)), None)

    def _is_of(self, tasks: str | None) -> bool:
        return self.task is not None and any(self.task in each for each in arrays.tasks_of(tasks or ""))


def chosen(seen: Snapshot, word_of: WordOf, named: str) -> list[Chosen]:
    """The jobs that a number of Slurm's, or an id of a run, stands for.

    Args:
        seen: What was seen.
        word_of: Tells what Dagster says of origin runs and step.
        named: "12", "12_3" a task, "12+1" a component, "12.4" a step of a session, or how the id of a run begins.

    Raises:
        InvalidRequestError: There is none, or it may be of several runs.
    """
    number = JobId.find(named)
    everything = shown(seen, word_of, Wanted(everything=True))
    if number is not None:
        found = [each for each in everything if _is_named(each, number)]
        if found:
            return [_part(each, number) for each in found]
    found = _of_run(everything, named)
    if not found:
        raise InvalidRequestError(
            f"No job of a run is known as {named}",
            hint="`dagster-slurm jobs --all` has what is known: name a job's number, or how the id of a run begins.",
        )
    return [Chosen(each.job, each.row) for each in found]


def _is_named(each: Shown, number: JobId) -> bool:
    """A step of a session by Slurm's number of it, or ours; the allocation by its own."""
    job_id = JobId.parse(each.job.job_id)
    if number.step:
        return str(number) in (each.row.job_id, each.job.job_id)
    return job_id.in_queue == number.in_queue and not job_id.is_request


def _part(found: Shown, number: JobId) -> Chosen:
    told, task = found.job.attempt.description if found.job.attempt else Description(), number.task
    elements = () if told.is_hetjob else told.elements
    if number.component is not None:
        if number.component >= told.components or told.components == 1:
            what = f"has {told.components} components, from 0 on" if told.components > 1 else "is no heterogeneous job"
            raise InvalidRequestError(f"There is no component {number.component} of job {found.job.job_id}: it {what}")
        return Chosen(found.job, found.row, number.component)
    if told.components == 1 and task is None:
        return Chosen(found.job, found.row, 0)
    is_one = task is None or (task < len(elements) if elements else bool(found.job.tasks))
    if not is_one:
        what = f"has {counted(len(elements), 'task')}, from 0 on" if elements else "is no array"
        raise InvalidRequestError(f"There is no task {task} of job {found.job.job_id}: it {what}")
    return Chosen(found.job, found.row, task)


def _of_run(everything: Sequence[Shown], named: str) -> list[Shown]:
    if len(named) < LEAST_OF_A_RUN:
        return []
    runs = {run for each in everything for run in each.run_ids if run.startswith(named)}
    if len(runs) > 1 and named not in runs:
        raise InvalidRequestError(f"The ids of several runs begin with {named}", hint=", ".join(sorted(runs)))
    return [each for each in everything if runs & set(each.run_ids)]


_STATUS, _SLURM = "status", "slurm.log"
_MOST_BYTES = 1 << 20
# Files in one request: its command line has a limit, and one for each task of an array may be thousands.
_FILES_AT_ONCE = 200
_MOST_STARTS = 10
_WAIT_SECONDS = 10.0
_PAUSES = (1.0, 2.0, 5.0, 10.0)
# Slurm is asked whether a job goes on that has said nothing for so long.
_SILENT_SECONDS = 30.0
_MOST_SILENT_SECONDS = 240.0


@dataclass(frozen=True)
class Said:
    """Some whole lines of one file.

    Args:
        source: Whose they are.
        is_error: Whether they are of stderr, or of Slurm itself.
        text: The lines.
    """

    source: Source
    is_error: bool
    text: str


@dataclass
class Source:
    """The files of one payload, and how far they were read.

    Args:
        job_id: Slurm's id: "12", "12_3" or "12+1".
        key: The partition key of a task, or the asset of a component.
        directory: Where it lies.
    """

    job_id: str
    key: str
    directory: RunDirectory
    _texts: dict[str, _Text] = field(default_factory=dict)
    _status: str = ""
    is_gone: bool = False

    @property
    def title(self) -> str:
        """What it is called beside others."""
        return f"{self.job_id} {self.key}".rstrip()

    @property
    def positions(self) -> list[FilePosition]:
        """What is to be read: of its status all that is new, and the streams of each time it was started."""
        names = (_STATUS, *self._streams(), _SLURM)
        return [FilePosition(self.directory.log_name(name), self._text(name).offset) for name in names]

    def _streams(self) -> list[str]:
        restarts = max((mark.restart for mark in self._marks()), default=0)
        starts = range(max(0, restarts - _MOST_STARTS), restarts + 1)
        return [f"{stream}.{number}" for number in starts for stream in ("stdout", "stderr")]

    def _text(self, name: str) -> _Text:
        return self._texts.setdefault(name, _Text())

    def _marks(self) -> tuple[StartMark | EndMark, ...]:
        return tuple(mark for mark in parse_marks(self._status)[0] if not isinstance(mark, OverMark))

    def take(self, name: str, data: bytes) -> Iterator[Said]:
        """Note what was read of one file, and give the lines that are whole by now."""
        text = self._text(name)
        if name == _STATUS:
            # Nothing is new in one that is not there any more.
            self.is_gone = self.is_gone or not data
            self._status += text.take(data, is_last=True)
            return
        lines = text.take(data)
        if lines:
            yield Said(self, not name.startswith("stdout"), lines)

    def rest(self) -> Iterator[Said]:
        """What is left of lines without an end."""
        for name, text in self._texts.items():
            left = text.take(b"", is_last=True)
            if left and name != _STATUS:
                yield Said(self, not name.startswith("stdout"), f"{left}\n")

    @property
    def has_ended(self) -> bool:
        """Whether its last word is that it ends, and all was read that it counts."""
        marks = self._marks()
        last = marks[-1] if marks else None
        if not isinstance(last, EndMark):
            return False
        counted = {f"{stream}.{last.restart}": last.bytes_of.get(stream, 0) for stream in ("stdout", "stderr")}
        return all(self._text(name).offset >= size for name, size in counted.items())

    @property
    def is_over_step(self) -> bool:
        """Whether it is a step of a session that has ended."""
        is_over = any(isinstance(mark, OverMark) for mark in parse_marks(self._status)[0])
        return JobId.parse(self.job_id).is_request and (is_over or self.has_ended)


class _Text:
    """A file that is read in parts."""

    def __init__(self) -> None:
        self.offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._left = ""

    def take(self, data: bytes, *, is_last: bool = False) -> str:
        """The whole lines, with `is_last` also what has no end yet; a bar of progress has a line for each state."""
        self.offset += len(data)
        text = self._left + self._decoder.decode(data)
        text = text.replace("\r\n", "\n").replace("\r", "\n") if not text.endswith("\r") else text
        whole, end, left = text.rpartition("\n")
        self._left = "" if is_last else left
        return whole + end + (left if is_last else "")


def sources_of(found: Sequence[Chosen]) -> list[Source]:
    """The files of jobs; those of an array for each task, and so of components. Jobs without a directory have none."""
    sources = []
    for each in found:
        attempt = each.job.attempt
        if attempt is None:
            continue
        elements = attempt.description.elements
        if not elements:
            keys = ",".join(attempt.description.partition_keys)
            sources.append(Source(each.handle.job_id, keys, attempt.directory))
        tasks = range(len(elements)) if each.task is None else [each.task]
        components = attempt.description.components
        sources += [
            Source(part_of_job(each.job.job_id, task, components), elements[task], attempt.directory.of_element(task))
            for task in (tasks if elements else ())
        ]
    return sources


def _paused() -> Iterator[float]:
    return itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1]))


class PayloadLogs:
    """Reads what payloads say.

    Args:
        cluster: Where they lie.
        sources: Their files.
    """

    def __init__(self, cluster: SlurmCluster, sources: Sequence[Source]) -> None:
        self._cluster = cluster
        self._open = list(sources)

    def there(self) -> Iterator[Said]:
        """What they have said until now."""
        yield from self._new()
        while True:
            # The second look is at streams of which the first has learnt.
            more = list(self._new())
            if not more:
                break
            yield from more
        for source in self._open:
            yield from source.rest()

    def followed(self) -> Iterator[Said]:
        """What they say, until their jobs have ended."""
        asked_at, silent, pauses = time.monotonic(), _SILENT_SECONDS, _paused()
        while self._open:
            began, heard = time.monotonic(), False
            for said in self._new(wait_seconds=_WAIT_SECONDS):
                heard = True
                yield said
            now = time.monotonic()
            looks_over = all(each.has_ended or each.is_gone for each in self._open)
            if heard:
                asked_at, pauses = now, _paused()
            elif looks_over or now - asked_at > silent:
                yield from self._without_the_ended()
                asked_at, silent = now, min(2 * silent, _MOST_SILENT_SECONDS)
            if self._open and now - began < _WAIT_SECONDS / 2:
                # It has not been waited there.
                time.sleep(next(pauses))

    def _new(self, wait_seconds: float = 0.0) -> Iterator[Said]:
        files = {at.name: source for source in self._open for at in source.positions}
        positions = [at for source in self._open for at in source.positions]
        blocks = [positions[n : n + _FILES_AT_ONCE] for n in range(0, len(positions), _FILES_AT_ONCE)]
        for block in blocks:
            wait = wait_seconds if len(blocks) == 1 else 0.0
            new = self._cluster.read_new(block, max_bytes=_MOST_BYTES, wait_seconds=wait)
            for name, data in new.items():
                if name in files:
                    yield from files[name].take(name.rpartition("/")[2], data)

    def _without_the_ended(self) -> Iterator[Said]:
        """Leave those whose jobs Slurm has not as going on; what they have said meanwhile is read first."""
        try:
            entries = self._cluster.queue([source.job_id for source in self._open])
        except SlurmCommandError:
            # No answer ends nothing.
            return
        over = [
            each
            for each in self._open
            # Of a step of a session, squeue has the allocation.
            if each.job_id not in entries or entries[each.job_id].state.is_terminal or each.is_over_step
        ]
        yield from self._new()
        for source in over:
            yield from source.rest()
        self._open = [each for each in self._open if each not in over]
