"""One loop for all jobs of a cluster in this process.

A tick reads what is new in every job's files in one round trip, which waits on the cluster for news. squeue is asked
seldom and for all jobs at once, and soon when a job seems to end; sacct when a job is over. Both are asked beside: no
line waits for their answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.description import GIVEN_BACK
from dagster_slurm.cluster.judge import Action, Patience, Silence, judge
from dagster_slurm.cluster.shared import SharedDirectory, seconds_since_boot
from dagster_slurm.errors import (
    DagsterSlurmError,
    SlurmCommandError,
    SlurmError,
    SlurmUnavailableError,
    TransportError,
    TransportTimeoutError,
)
from dagster_slurm.job.backoff import Outage, Pace, WatchIntervals
from dagster_slurm.job.events import Broken, Ended, Listener, Notice, Subscription
from dagster_slurm.job.questions import Answer, Beside, Question
from dagster_slurm.job.watched import WatchedJob, awake
from dagster_slurm.run_directory import JobHandle
from dagster_slurm.slurm.efficiency import Needs
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.slurm.states import JobState
from dagster_slurm.text import error_words

_T = TypeVar("_T")

_MAX_BLOCK_BYTES = 2 << 20
# Of all files at one look: what hundreds of jobs have written while nobody looked is not held in memory at once.
_MAX_BYTES = 64 << 20
# Longer than anything the watcher waits for at once: the slowest request, and the longest pause.
_LONGEST_STEP_SECONDS = 300.0
# As a shell has it of SIGTERM; what session/dispatch.sh writes of a step that was cancelled while it waited.
_CANCELLED_STATUS = 143
_NO_FIGURES = (
    "{} refuses every question: the ends of jobs are known by their own end lines and squeue, without its figures"
)


class Clock(Protocol):
    """Time, as the watcher sees it; a test injects its own."""

    def now(self) -> float:
        """Seconds from some fixed moment; never goes back."""

    def utc(self) -> datetime:
        """The time of day."""

    def sleep(self, wake: threading.Event, seconds: float) -> None:
        """Wait until `wake` is set or the time is over."""


class SystemClock:
    """The machine's own clock, which stands still while this process is stopped (SIGSTOP).

    Nothing was asked meanwhile, so that no patience may run out of it.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen = monotonic()
        self._stopped = 0.0

    def now(self) -> float:
        now = self._monotonic()
        self._stopped += max(0.0, now - self._seen - _LONGEST_STEP_SECONDS)
        self._seen = now
        return now - self._stopped

    def utc(self) -> datetime:
        return datetime.now(timezone.utc)

    def sleep(self, wake: threading.Event, seconds: float) -> None:
        wake.wait(seconds)


@dataclass(kw_only=True)
class _Line(Outage):
    """Whether a part of the cluster answers, which all jobs are told."""

    what: str
    tell: Callable[[Notice], None]

    def tell_lost(self, now: float, error: DagsterSlurmError, *, is_news: bool = True) -> None:
        if self.lost(now, error) and is_news:
            refuses = isinstance(error, SlurmError) and not error.transient
            does = "has no usable answer" if refuses else "does not answer"
            self.tell(Notice(f"{self.what} {does}; the job is not affected. Waiting: {error}", "warning"))

    def tell_back(self, now: float) -> None:
        if (away_seconds := self.back(now)) is not None:
            self.tell(Notice(f"{self.what} answers again, after {away_seconds:.0f} s"))


class JobWatcher:
    """Watches all jobs of one cluster for this process, on a thread that lives while there are any.

    Args:
        cluster: The cluster.
        intervals: How often to look.
        patience: How long to wait for witnesses of an end.
        clock: Time; a test injects its own.
        shared: Where answers are shared with other processes: what the names of the directories begin with. None for
            a watcher of its own.
        start: Runs what asks Slurm; by default a thread. A test runs it at once.
    """

    def __init__(
        self,
        cluster: SlurmCluster,
        *,
        intervals: WatchIntervals | None = None,
        patience: Patience | None = None,
        clock: Clock | None = None,
        shared: Path | None = None,
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._cluster = cluster
        self._intervals = intervals or WatchIntervals()
        self._patience = patience or Patience()
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._jobs: list[WatchedJob] = []
        self._queue_asked = float("-inf")
        self._thread: threading.Thread | None = None
        self._tick_pace = Pace(self._intervals.tick_seconds, self._intervals.tick_max_seconds, 1.2)
        host = cluster.transport.host
        self._files, self._queue, self._accounting = map(
            self._line, (f"The login node {host}", f"squeue on {host}", f"sacct on {host}")
        )
        moment = seconds_since_boot if shared else self._clock.now
        queue = SharedDirectory(shared.with_name(f"{shared.name}.queue")) if shared else None
        self._queue_question = Question(cluster.queue, QueueEntry, queue, clock=moment)
        self._shared, self._moment = shared, moment
        self._accounting_questions: dict[bool, Question[AccountingRecord]] = {}
        self._beside = Beside(self._wake.set, start)

    def watch(self, handle: JobHandle) -> Subscription:
        """Begin to watch a job; its events come until `Ended` or `Broken`."""
        subscription = Subscription()
        self.watch_all([(handle, subscription)])
        return subscription

    def watch_all(self, jobs: Iterable[tuple[JobHandle, Listener]], needs: Needs | None = None) -> None:
        """Begin to watch many jobs, or tasks of an array, in their order.

        Args:
            jobs: The jobs.
            needs: What is wanted of sacct after a good end of each; None for nothing.
        """
        asked = max(self._queue_asked, self._clock.now() - self._queue_question.age())
        watched = [self._watched(handle, listener, asked, needs or Needs()) for handle, listener in jobs]
        with self._lock:
            self._jobs += watched
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="dagster-slurm-watcher", daemon=True)
                self._thread.start()
        self._tick_pace.hurry(self._clock.now())
        self._wake.set()

    def _watched(self, handle: JobHandle, subscription: Listener, asked: float, needs: Needs) -> WatchedJob:
        every, now = self._intervals, self._clock.now()
        return WatchedJob(
            handle,
            subscription,
            queue_pace=Pace(
                every.status_seconds,
                every.status_max_seconds,
                every.status_backoff,
                jitter=0.1,
                # Soon, to tell why it waits; many jobs that come one after the other are not asked about one by one.
                due=max(now + every.first_status_seconds, asked + every.status_seconds),
                since=now + every.first_status_seconds,
            ),
            confirm_pace=Pace(every.confirm_seconds, every.status_max_seconds),
            accounting_pace=Pace(every.confirm_seconds, every.status_max_seconds),
            needs=needs,
            answers_after=self._queue_question.now(),
        )

    def forget(self, *listeners: Listener) -> None:
        """Stop watching jobs; the jobs themselves go on."""
        gone = set(map(id, listeners))
        with self._lock:
            self._jobs = [job for job in self._jobs if id(job.subscription) not in gone]

    def _line(self, what: str) -> _Line:
        pace = Pace(0.5, self._intervals.away_max_seconds, 2.0, jitter=0.2)
        return _Line(pace, what=what, tell=self._tell_all)

    def _tell_all(self, notice: Notice) -> None:
        for job in self._snapshot():
            job.subscription.put(notice)

    def _snapshot(self) -> list[WatchedJob]:
        with self._lock:
            return list(self._jobs)

    def _loop(self) -> None:
        reads = True
        while True:
            self._wake.clear()
            jobs = self._snapshot()
            if not jobs:
                with self._lock:
                    if not self._jobs and not self._beside.is_out():
                        self._queue_question.leave()
                        for question in self._accounting_questions.values():
                            question.leave()
                        self._beside.drop()
                        self._thread = None
                        return
                self._wait_for_an_answer()
                continue
            try:
                self._tick(jobs, reads=reads)
            except Exception as error:  # noqa: BLE001 - a silent end of this thread would leave every job waiting
                self._break(jobs, error)
            reads = self._pause()

    def _wait_for_an_answer(self) -> None:
        """With no job left, until what was asked is over, or a job has come."""
        if self._beside.is_out():
            self._wake.wait()

    def _pause(self) -> bool:
        """Until the files are to be read again, or else an answer has come; a new job may have it come sooner.

        Returns:
            Whether the files are to be read.
        """
        while True:
            self._wake.clear()
            left = self._next_tick() - self._clock.now()
            if left <= 0 or self._beside.has_answer:
                return left <= 0
            self._clock.sleep(self._wake, left)

    def _next_tick(self) -> float:
        return max(self._tick_pace.due, self._files.pace.due if self._files.since is not None else 0.0)

    def _break(self, jobs: Sequence[WatchedJob], error: Exception) -> None:
        typed = error if isinstance(error, DagsterSlurmError) else None
        for job in jobs:
            fault = typed or DagsterSlurmError(
                f"The watcher failed: {error_words(error)}", host=self._cluster.host, job_id=job.handle.job_id
            )
            job.subscription.put(Broken(fault))
            self.forget(job.subscription)

    def _tick(self, jobs: Sequence[WatchedJob], *, reads: bool) -> None:
        """One look at everything that is due; where the files are not, at what Slurm has answered."""
        looked_at = awake(jobs)
        if reads and not self._read_files(looked_at):
            return
        ending, over = self._settle_all(looked_at)
        if self._ask_queue(jobs, ending=ending):
            looked_at = awake(jobs)
            ending, over = self._settle_all(looked_at)
        if self._ask_accounting(over):
            self._settle_all(looked_at)

    def _settle_all(self, jobs: Sequence[WatchedJob]) -> tuple[list[WatchedJob], list[WatchedJob]]:
        """Decide about all of them; those about which squeue is to be asked, and sacct."""
        wanting: dict[Action, list[WatchedJob]] = {Action.ASK_QUEUE: [], Action.ASK_ACCOUNTING: []}
        for job in jobs:
            wanting.setdefault(self._settle(job), []).append(job)
        return wanting[Action.ASK_QUEUE], wanting[Action.ASK_ACCOUNTING]

    def _read_files(self, jobs: Sequence[WatchedJob]) -> bool:
        positions = [position for job in jobs for position in job.positions()]
        max_bytes = min(_MAX_BLOCK_BYTES, _MAX_BYTES // max(1, len(positions)))
        began, wait = self._clock.now(), 0.0 if self._is_busy(jobs) else self._intervals.news_seconds
        try:
            blocks = dict(self._cluster.read_new(positions, max_bytes=max_bytes, wait_seconds=wait))
        except TransportError as error:
            self._files.tell_lost(self._clock.now(), error)
            return False
        now = self._clock.now()
        self._files.tell_back(now)
        news = [job.take(blocks) for job in jobs]
        for job in jobs:
            job.note_moment(self._queue_question.now())
        self._tick_pace.first_seconds = self._shortest_pause(len(jobs))
        # Where nothing could wait there, looks become rarer.
        has_waited = wait > 0 and now - began >= wait / 2
        if any(news) or has_waited:
            self._tick_pace.restart(now)
        if all(len(block) < max_bytes for block in blocks.values()):
            self._tick_pace.asked(now)
        return True

    def _is_busy(self, jobs: Sequence[WatchedJob]) -> bool:
        """Whether something else is to be looked at soon than files: an answer of Slurm, or how a job ends."""
        return not self._beside.is_free or any(job.end_mark or job.over_since is not None for job in jobs)

    def _shortest_pause(self, jobs: int) -> float:
        every = self._intervals
        # Of hundreds of jobs some always write, and every look costs both ends something.
        times = max(1 + min(jobs / 40, 0.8), jobs / 200)
        return max(every.tick_seconds, min(every.tick_seconds * times, every.tick_many_seconds))

    def _settle(self, job: WatchedJob) -> Action:
        """Decide about one job, and tell its end, once, when it is known."""
        now = self._clock.now()
        seen = job.witnesses(now)
        if job.judged is None or job.judged[0] != seen:
            # Of hundreds of jobs, most have nothing new at a look.
            job.judged = seen, judge(seen, self._patience)
        verdict = job.judged[1]
        if job.told:
            return Action.WAIT
        job.notice_removal(now, self._patience.logs_seconds)
        if job.over_status is not None and not job.starts:
            # The dispatcher of its session will never begin it.
            is_taken_back = job.over_status in (GIVEN_BACK, _CANCELLED_STATUS)
            self._tell_end(job, job.ended(JobState.CANCELLED if is_taken_back else JobState.FAILED))
        elif verdict.action is Action.FINISH and verdict.state is not None:
            self._tell_end(job, job.ended(verdict.state))
        elif verdict.action is Action.GIVE_UP:
            from dagster_slurm.job.failure import unknown_end  # noqa: PLC0415 - for failures only

            self._tell_end(job, Broken(unknown_end(job.handle, self._cluster.host)))
        else:
            notice = verdict.row.notice
            if notice and seen.over_seconds >= self._patience.logs_seconds:
                job.notice(notice, key=verdict.row.name)
            is_prompt = job.over_since is not None and seen.over_seconds < self._patience.logs_seconds
            if verdict.action is not Action.WAIT or is_prompt:
                self._tick_pace.hurry(now)
        return verdict.action

    def _tell_end(self, job: WatchedJob, event: Ended | Broken) -> None:
        job.told = True
        job.subscription.put(event)
        self.forget(job.subscription)

    def _ask_queue(self, jobs: Sequence[WatchedJob], *, ending: Sequence[WatchedJob]) -> bool:
        """Take what squeue has answered, and ask it, if that is due; whether there was something to take."""
        now = self._clock.now()
        asked = [job for job in jobs if not job.witnesses(now).is_over]
        job_ids = [job.handle.job_id for job in asked]
        answers = self._answers(self._queue_question, job_ids, self._queue)
        for answer in answers:
            self._take_queue(answer, asked)
        if self._is_queue_due(asked, ending, now) and self._may_ask(self._queue):
            self._beside.ask(self._queue_question, job_ids)
        return bool(answers)

    def _is_queue_due(self, asked: Sequence[WatchedJob], ending: Sequence[WatchedJob], now: float) -> bool:
        due = any(job.queue_pace.is_due(now) for job in asked)
        soon = any(job.confirm_pace.is_due(now) for job in ending)
        # The next question comes early to tell when a job has started; it is the next, not a further one.
        begun = any(job.wants_times for job in asked) and now >= self._queue_asked + self._intervals.status_seconds
        return due or soon or begun

    def _take_queue(self, answer: Answer[QueueEntry], asked: Sequence[WatchedJob]) -> None:
        now = self._clock.now()
        self._queue_asked = max(self._queue_asked, now - (self._queue_question.now() - answer.asked_at))
        if not self._is_usable(answer, self._queue, asked):
            return
        entries = answer.entries or {}
        for job in asked:
            job_id = job.handle.job_id
            if answer.is_about(job_id, asked_after=job.answers_after):
                job.take_queue(entries.get(job_id), now=now, utc=self._clock.utc())
                job.queue_pace.asked(now)
                if job.end_mark:
                    job.confirm_pace.asked(now)

    def _ask_accounting(self, wanting: Sequence[WatchedJob]) -> bool:
        """As `_ask_queue`, of sacct and jobs that are over."""
        for tres in {job.needs.tres for job in wanting} - self._accounting_questions.keys():
            self._accounting_questions[tres] = self._accounting_question(tres)
        took = [
            self._ask_accounting_of(question, [job for job in wanting if job.needs.tres is tres])
            for tres, question in self._accounting_questions.items()
        ]
        return any(took)

    def _accounting_question(self, tres: bool) -> Question[AccountingRecord]:
        """One of two, since what is shared is of one form: few need the figures that cost slurmdbd one more request."""
        name = "accounting-tres" if tres else "accounting"
        shared = SharedDirectory(self._shared.with_name(f"{self._shared.name}.{name}")) if self._shared else None
        return Question(partial(self._records, tres=tres), AccountingRecord, shared, clock=self._moment)

    def _ask_accounting_of(self, question: Question[AccountingRecord], wanting: Sequence[WatchedJob]) -> bool:
        now = self._clock.now()
        for job in wanting:
            job.was_accounting_asked = True
        job_ids = [job.accounted_as for job in wanting]
        answers = self._answers(question, job_ids, self._accounting)
        for answer in answers:
            self._take_accounting(answer, wanting)
        if any(job.accounting_pace.is_due(now) for job in wanting) and self._may_ask(self._accounting):
            self._beside.ask(question, job_ids)
        is_refused = self._is_refused(question)
        if is_refused:
            for job in wanting:
                job.take_no_accounting(Silence.REFUSED)
                job.notice(_NO_FIGURES.format(self._accounting.what), key="refused", is_of_job=False)
        return is_refused or bool(answers)

    def _is_refused(self, question: Question[_T]) -> bool:
        return question.refused_seconds() >= self._patience.accounting_seconds

    def _take_accounting(self, answer: Answer[AccountingRecord], wanting: Sequence[WatchedJob]) -> None:
        if not self._is_usable(answer, self._accounting, wanting):
            return
        entries = answer.entries
        for job in wanting:
            job_id = job.accounted_as
            if answer.is_about(job_id, asked_after=job.answers_after):
                if entries is None:
                    job.take_no_accounting(Silence.NONE_KEPT)
                else:
                    job.take_record(entries.get(job_id))
                job.accounting_pace.asked(self._clock.now())

    def _may_ask(self, line: _Line) -> bool:
        """Whether it is time for a question: nothing else is being asked, and the cluster is there."""
        return self._beside.is_free and self._files.since is None and line.pace.is_due(self._clock.now())

    def _answers(self, question: Question[_T], job_ids: Sequence[str], line: _Line) -> list[Answer[_T]]:
        """What was answered since the last look, to this process and to others; nothing while it is being asked."""
        if self._beside.is_out(question):
            return []
        own = self._own_answer(question, line)
        question.want(job_ids)
        return [answer for answer in (own, question.news()) if answer is not None]

    def _own_answer(self, question: Question[_T], line: _Line) -> Answer[_T] | None:
        """The answer to what was asked beside, if there is one."""
        now = self._clock.now()
        try:
            return self._beside.answer(question)
        except SlurmError as error:
            line.tell_lost(now, error, is_news=error.transient or not self._is_refused(question))
        except TransportTimeoutError as error:
            # Files go on being read: what hangs is Slurm's command.
            line.tell_lost(now, error)
        except TransportError as error:
            self._files.tell_lost(now, error)
        return None

    def _is_usable(self, answer: Answer[_T], line: _Line, jobs: Sequence[WatchedJob]) -> bool:
        if all(answer.asked_at < job.answers_after for job in jobs):
            # What another process was told before any of these was to be asked about is no news.
            return False
        now = self._clock.now()
        if answer.failure is not None:
            said = answer.failure
            line.tell_lost(now, SlurmUnavailableError(said, returncode=1, stderr=said, host=self._cluster.host))
            return False
        line.tell_back(now)
        return True

    def _records(self, job_ids: Sequence[str], *, tres: bool) -> Mapping[str, AccountingRecord] | None:
        try:
            return self._cluster.accounting(job_ids, tres=tres)
        except SlurmCommandError as error:
            # No sacct on the login node is as good as no accounting.
            if error.is_missing_program:
                return None
            raise
