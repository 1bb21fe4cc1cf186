"""One job as the watcher knows it: how far its files were read, and what the witnesses said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from dagster_slurm.cluster import FilePosition
from dagster_slurm.cluster.description import EndMark, OverMark, StartMark, parse_marks
from dagster_slurm.cluster.judge import Silence, Verdict, Witnesses
from dagster_slurm.job.backoff import Pace
from dagster_slurm.job.events import Ended, Listener, Notice, Output, QueueLeft, QueueTeller, Started, StateChanged
from dagster_slurm.run_directory import STREAMS, JobHandle
from dagster_slurm.slurm.efficiency import Needs, record_of_line
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.slurm.states import JobState, StatePhase

_TASKS_AHEAD = 64


@dataclass
class WatchedJob:
    """What is known of one job. Only the watcher's thread touches it."""

    handle: JobHandle
    subscription: Listener
    queue_pace: Pace
    confirm_pace: Pace
    accounting_pace: Pace
    needs: Needs = field(default_factory=Needs)
    queue: JobState | Silence = Silence.NOT_KNOWN
    record: AccountingRecord | None = None
    accounting: Silence = Silence.NOT_KNOWN
    was_accounting_asked: bool = False
    over_since: float | None = None
    end_mark: EndMark | None = None
    nodes: str | None = None
    step: str = ""
    over_status: int | None = None
    reason: str | None = None
    restart: int = 0
    starts: int = 0
    started_at: float | None = None
    told: bool = False
    is_removed: bool = False
    answers_after: float = float("-inf")
    judged: tuple[Witnesses, Verdict] | None = None
    _has_new_marks: bool = False
    _timed_mark: EndMark | None = None
    _ending_since: float = 0.0
    _looked_since_over: bool = False
    _offsets: dict[str, int] = field(default_factory=dict)
    _paths: tuple[int, Mapping[str, str]] | None = None
    _status_rest: str = ""
    _catching_up: bool = False
    _teller: QueueTeller = field(default_factory=QueueTeller)
    _runs: bool = False
    _asked_since_start: bool = False
    _times: AccountingRecord | QueueEntry | None = None
    _start_told: datetime | None = None
    _noticed: set[str] = field(default_factory=set)
    _removed_since: float | None = None

    @property
    def may_have_begun(self) -> bool:
        """Whether a witness says that it has left the queue's waiting line."""
        waits = isinstance(self.queue, JobState) and self.queue.phase is StatePhase.WAITING
        return self._runs or not (waits or self.queue in (Silence.NOT_KNOWN, Silence.NOT_OURS))

    def positions(self) -> list[FilePosition]:
        """What to ask for at the next tick; the streams only while the waiting side keeps up."""
        files = list(self._files().items())
        asked = files if self.subscription.room_bytes else files[:1]
        return [FilePosition(path, self._offsets.get(name, 0)) for name, path in asked]

    def _files(self) -> Mapping[str, str]:
        """The paths of the files of this incarnation by their names, `status` first; each look asks for them twice."""
        if self._paths is None or self._paths[0] != self.restart:
            names = ["status", *(f"{stream}.{self.restart}" for stream in STREAMS)]
            self._paths = self.restart, {name: self.handle.directory.log_name(name) for name in names}
        return self._paths[1]

    def take(self, blocks: Mapping[str, bytes]) -> bool:
        """Take in what was read; whether anything was."""
        has_room = self.subscription.room_bytes > 0
        self._looked_since_over = self.over_since is not None
        files = self._files()
        mine = {name: blocks.get(path, b"") for name, path in files.items()}
        self.is_removed = blocks.get(files["status"]) == b""
        if self.is_removed:
            # Where only files are removed, its end makes another one.
            self._offsets["status"], self._status_rest = 0, ""
        # The streams first: what the status says of the end was written after them.
        for stream in STREAMS:
            name = f"{stream}.{self.restart}"
            if mine[name]:
                self._offsets[name] = self._offsets.get(name, 0) + len(mine[name])
                self.subscription.put(Output(stream, mine[name]))
        # More may be there than was read: the files are longer than one block, or the waiting side is behind.
        self._catching_up = any(mine[f"{stream}.{self.restart}"] for stream in STREAMS) or not has_room
        if mine["status"]:
            self._offsets["status"] = self._offsets.get("status", 0) + len(mine["status"])
            self._take_status(mine["status"].decode("utf-8", "replace"))
        return any(mine.values())

    def _take_status(self, text: str) -> None:
        marks, self._status_rest = parse_marks(self._status_rest + text)
        for mark in marks:
            # A node that was given up may write its end long after the next incarnation has started.
            if mark.job_id != self.handle.job_id:
                continue
            if isinstance(mark, OverMark):
                self.over_status, self._has_new_marks, self.queue = mark.status, True, Silence.GONE
                continue
            if mark.restart < self.restart:
                continue
            is_again = isinstance(mark, StartMark) and mark.restart == self.restart and self.starts > 0
            self.restart = mark.restart
            self._has_new_marks = True
            if isinstance(mark, StartMark):
                self.starts = self.starts + 1 if is_again else 1
                self.started_at = mark.at_epoch_seconds
                self.nodes, self.end_mark = mark.nodes, self.end_mark if is_again else None
                self.step = mark.step
                self._runs, self._asked_since_start = True, False
                self.subscription.put(Started(mark.nodes, mark.restart, mark.step))
                self._tell_times()
            else:
                self.end_mark = mark
                if mark.is_proof:
                    # squeue may not be asked any more.
                    self._times = self._times or record_of_line(
                        mark.job_id, mark.figures, ended_at=mark.at_epoch_seconds
                    )
                    self._tell_times()

    def note_moment(self, moment: float) -> None:
        """What was asked for before its last lines were read may be older than they are."""
        if self._has_new_marks:
            self.answers_after, self._has_new_marks = moment, False

    def take_queue(self, entry: QueueEntry | None, *, now: float, utc: datetime) -> None:
        """Take in squeue's answer: tell what is news in it."""
        self._asked_since_start = True
        if self.over_status is not None:
            # What squeue has is the allocation, which goes on.
            return
        if entry is None:
            self.queue = Silence.GONE
            return
        if not self._is_mine(entry, "squeue"):
            self.queue = Silence.NOT_OURS
            return
        self.queue = entry.state
        self.reason = entry.reason or self.reason
        # Where squeue is behind, as through a site's cache, it shows a job waiting that has started; an end line tells
        # that from a requeue.
        has_run = self._runs and self.end_mark is not None
        for news in self._teller.news(entry, has_run=has_run, now=now, utc=utc):
            self.subscription.put(news)
            if isinstance(news, StateChanged) and entry.state.phase is StatePhase.WAITING:
                self._runs = False
        # Of a step it would be the times of its allocation.
        self._times = None if entry.state.phase is StatePhase.WAITING or self.handle.session else entry
        self._tell_times()

    def take_no_accounting(self, why: Silence) -> None:
        """Take in that sacct has no answer about any job."""
        self.accounting = why

    def take_record(self, record: AccountingRecord | None) -> None:
        """Take in sacct's answer, which knows a start that squeue was not asked about in time."""
        self.accounting = Silence.GONE
        if record is not None and not self._is_mine(record, "sacct"):
            self.accounting = Silence.NOT_OURS
            return
        if self.over_since is None and record is not None and record.state is not JobState.COMPLETED:
            # Nobody says yet that it has left the queue, and after any other end Slurm may requeue it.
            return
        self.record = record or self.record
        if self.record is not None and self.record.state.is_terminal:
            self._times = self.record
            self._tell_times()

    def _is_mine(self, said: QueueEntry | AccountingRecord, command: str) -> bool:
        """Whether a record under this job's number is about this job; another's is logged, once."""
        handle = self.handle
        if handle.is_of(said, started_at=self.started_at):
            return True
        self.notice(
            f"{command} has a job {handle.job_id} with the name {said.name!r} in {said.work_directory!r}, state "
            f"{said.state}; it is not taken for {handle.directory.job_name(handle.generation)}",
            key=command,
        )
        return False

    def notice(self, text: str, *, key: str, is_of_job: bool = True) -> None:
        """Tell something that a person wants to know, once; what is not of this job alone does not name it."""
        if key not in self._noticed:
            self._noticed.add(key)
            self.subscription.put(Notice(f"Slurm job {self.handle.job_id}: {text}" if is_of_job else text, "warning"))

    def notice_removal(self, now: float, patience_seconds: float) -> None:
        """Tell that its directory is gone, if it stays so: by hand, by a clean-up of the site, by another process."""
        if not self.is_removed:
            self._removed_since = None
            return
        self._removed_since = now if self._removed_since is None else self._removed_since
        if now - self._removed_since < patience_seconds:
            return
        waits = isinstance(self.queue, JobState) and self.queue.phase is StatePhase.WAITING
        lost = "it cannot start without" if waits else "what it says from now on is lost, and so is its result"
        self.notice(
            f"The run directory {self.handle.directory.path} of Slurm job {JobId.parse(self.handle.job_id).job} is not "
            f"there any more; {lost}",
            key="removed",
            is_of_job=False,
        )

    @property
    def accounted_as(self) -> str:
        """What sacct is asked about: of a step that has ended by itself that, and else its allocation."""
        if self.handle.session is None:
            return self.handle.job_id
        job = JobId.parse(self.handle.job_id).in_queue
        goes_on = isinstance(self.queue, JobState) and not self.queue.is_terminal
        is_step = self.step and (self.over_status is not None or goes_on)
        return f"{job}.{self.step}" if is_step else job

    @property
    def wants_times(self) -> bool:
        """Whether it has started, and squeue was not asked since when."""
        return self._runs and not self._asked_since_start

    def _tell_times(self) -> None:
        """Tell by Slurm's own times how long it waited: once for each start, and after `Started`."""
        start = self._times.start_time if self._times else None
        submitted = self._times.submit_time if self._times else None
        if not self._runs or start is None or submitted is None or start == self._start_told:
            return
        self._start_told = start
        self.subscription.put(QueueLeft(start, max(0.0, (start - submitted).total_seconds())))

    def _own_state(self) -> JobState | None:
        """How a component has ended by itself, in Slurm's words; None for what is none, and what Slurm has ended.

        Slurm's state of it is that of the heterogeneous job, which goes on until all have ended.
        """
        end = self.end_mark
        if end is None or end.figures.told or self.starts > 1:
            return None
        if end.exit_code == 0:
            return JobState.COMPLETED
        return JobState.OUT_OF_MEMORY if end.figures.killed else JobState.FAILED

    def logs_complete(self) -> bool:
        """Whether everything was read that the end line counts; without one, what is there after the end is all."""
        return self._looked_since_over if self.end_mark is None else not self.unread_bytes()

    def unread_bytes(self) -> dict[str, int]:
        """How much less of each stream was read than its end line counts, where it is less."""
        counted = self.end_mark.bytes_of if self.end_mark else {}
        unread = {stream: size - self._offsets.get(f"{stream}.{self.restart}", 0) for stream, size in counted.items()}
        return {stream: size for stream, size in unread.items() if size > 0}

    def ended(self, state: JobState) -> Ended:
        """Its end, in that state, with all that is known of it."""
        return Ended(
            state,
            self.record,
            self.end_mark,
            self.nodes,
            self.reason,
            self.unread_bytes(),
            is_removed=self.is_removed,
            step=self.step,
            over_status=self.over_status,
            was_accounting_asked=self.was_accounting_asked,
        )

    def witnesses(self, now: float) -> Witnesses:
        """What is known, for the judge; remembers since when the job is over."""
        is_read = self.logs_complete()
        if self.end_mark is not self._timed_mark or (self.end_mark and not is_read and self._catching_up):
            # Patience is for what does not come; what is still coming is waited for.
            self._timed_mark, self._ending_since = self.end_mark, now
        seen = Witnesses(
            end_mark=self.end_mark,
            queue=self.queue,
            accounting=("+" in self.handle.job_id and self._own_state())
            or (self.record.state if self.record else self.accounting),
            logs_complete=is_read,
            ending_seconds=now - self._ending_since if self.end_mark else 0.0,
            starts=self.starts,
            needs_accounting=self.end_mark is not None and self.needs.after(self.end_mark.figures),
        )
        if not seen.is_over:
            self.over_since = None
            return seen
        if self.over_since is None or (self.end_mark and not is_read and self._catching_up):
            self.over_since = now
        return replace(seen, over_seconds=now - self.over_since)


def awake(jobs: Sequence[WatchedJob]) -> list[WatchedJob]:
    """The jobs whose files are worth a look: of each array those that may have begun, and the next few.

    Slurm starts the tasks of an array in the order of their numbers; where it does not, squeue tells.
    """
    found, ahead = [], Counter[int]()
    for job in jobs:
        job_id = JobId.parse(job.handle.job_id)
        if job_id.is_task and not job.may_have_begun:
            ahead[job_id.job] += 1
            if ahead[job_id.job] > _TASKS_AHEAD:
                continue
        found.append(job)
    return found
