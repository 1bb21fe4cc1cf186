"""A step's calls to its cluster, and what may end them: signals and terminations, acted upon where it is safe.

Dagster turns SIGINT and SIGTERM into an exception at any bytecode of a step (1.13, `raise_execution_interrupts`), and
leaves SIGHUP to end the process. Between "submitted" and "written down" neither may happen. A call is repeated while
the cluster is away, and not without end while the run is terminated.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from types import FrameType, TracebackType
from typing import Any, NamedTuple, TypeVar

from dagster import DagsterExecutionInterruptedError, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.shared import seconds_since_boot
from dagster_slurm.errors import (
    AuthenticationError,
    ConnectionFailedError,
    DagsterSlurmError,
    HostNotFoundError,
    SubmitLimitError,
    TransferCorruptedError,
    TransportTimeoutError,
)
from dagster_slurm.job.backoff import Outage, Pace
from dagster_slurm.pipes.run_notes import is_executor_child, was_terminated
from dagster_slurm.pipes.step import Step
from dagster_slurm.text import error_words

T = TypeVar("T")

_LOOK_SECONDS = 0.2
# No wider than the gap between any answer and what is done with it. With hundreds of steps at once, of which each looks
# twice, to read the status took a tenth of what the run cost.
_AFRESH_SECONDS = 0.2


class TerminationRequestedError(Exception):
    """A user has terminated the run: the job is to be cancelled."""


class Interruptions:
    """Stands between a call and what would interrupt it.

    On another thread than the main one no signal arrives; those of `threaded_executor` share what its main one hears.

    Args:
        step: The step.
        outlived: Whether its jobs go on when this process ends; if not, each signal ends the step.

    Attributes:
        has_jobs: Whether there may be a job of the call's by now.
    """

    def __init__(self, step: Step, *, outlived: bool = True) -> None:
        self._step = step
        self._run = step.run
        self._outlived = outlived
        self.has_jobs = False
        shared = SHARED.find(self._run)
        self._signals = shared or RunSignals(step.instance if self._run else None, self._run)
        self._listening = nullcontext() if shared else self._signals.listen()
        # What the process heard before this step began did not mean the step.
        self._told = self._before = len(self._signals.heard)
        self._status_error: Exception | None = None
        self._acted = False
        self._terminated = False

    def __enter__(self) -> Interruptions:
        self._listening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.__exit__(kind, error, trace)

    @property
    def is_terminated(self) -> bool:
        """Whether a user has terminated the run, as far as `check` has seen."""
        return self._terminated

    @property
    def is_detached(self) -> bool:
        """Whether the monitoring is to end, as far as `check` has seen, and the job goes on."""
        return self._acted and not self._terminated

    def check(self, *, afresh: bool = False) -> None:
        """Act on what has happened, once.

        Args:
            afresh: Do not go by a status of some seconds ago.

        Raises:
            TerminationRequestedError: The job is to be cancelled.
            DagsterExecutionInterruptedError: The monitoring is to end; the job goes on.
        """
        if self._acted:
            return
        news = len(self._signals.heard) > self._told
        # A termination is on record before its signal arrives.
        max_age_seconds = 0.0 if news else _AFRESH_SECONDS if afresh else STATUS_SECONDS
        intent = decide_intent(
            self._run_status(max_age_seconds),
            self._signals.heard,
            self._is_executor_child,
            was_terminated=self._was_terminated,
            ends_at_once=self._leaves_nothing(self._signals.heard[self._before :]),
        )
        if intent is Intent.GO_ON:
            if news:
                self._tell_that_it_goes_on()
            return
        self._acted = True
        if intent is Intent.CANCEL:
            self._terminated = True
            self._keep_canceled()
            raise TerminationRequestedError
        raise DagsterExecutionInterruptedError

    def pause(self, seconds: float) -> None:
        """Wait, and look for interruptions meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _LOOK_SECONDS))

    def _keep_canceled(self) -> None:
        """A run that was marked as canceled while its process lives would end as failed, and be retried (1.13)."""
        if self._run is not None and self._signals.status is DagsterRunStatus.CANCELED:
            self._step.instance.report_run_canceling(self._run, message="The run was marked as canceled.")

    def _tell_that_it_goes_on(self) -> None:
        self._told = len(self._signals.heard)
        does = "monitoring its Slurm job" if self.has_jobs else "with the submission of its Slurm job, and monitors it"
        self._step.log.warning(
            f"This process was asked to stop; it goes on {does}. A second signal ends the monitoring "
            "and leaves the job alone; terminating the run in Dagster cancels the job."
        )

    def _is_executor_child(self) -> bool:
        return self._run is not None and is_executor_child(self._step.instance, self._run.run_id)

    def _leaves_nothing(self, heard: Sequence[Heard]) -> bool:
        if not self._outlived:
            return bool(heard)
        return not self.has_jobs and is_interrupt(heard)

    def _was_terminated(self) -> bool:
        return self._run is not None and was_terminated(self._step.instance, self._run.run_id)

    def _run_status(self, max_age_seconds: float) -> DagsterRunStatus | None:
        status = self._signals.run_status(max_age_seconds=max_age_seconds)
        error = self._signals.error
        if error is not None and error is not self._status_error:
            self._step.log.debug(f"The run's status is not known now: {error_words(error)}")
        self._status_error = error
        return status


_TERMINATED = frozenset({DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED})
_TAKEN_OVER = frozenset({DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS})
_DELIBERATE_SECONDS = 1.0


class Heard(NamedTuple):
    """A signal: when it arrived, in seconds by the monotonic clock, and which it is."""

    at: float
    number: int


class Intent(Enum):
    """What is wanted of a call that runs."""

    GO_ON = "monitor the job to its end"
    DETACH = "stop monitoring; the job goes on"
    CANCEL = "a user has terminated the run: cancel the job"


def decide_intent(
    status: DagsterRunStatus | None,
    heard: Sequence[Heard],
    is_executor_child: Callable[[], bool],
    *,
    was_terminated: Callable[[], bool],
    ends_at_once: bool = False,
) -> Intent:
    """What is wanted.

    Only a termination cancels. The parent of an executor's child waits for it, so that one which went on would hold up
    a restart. A second signal in earnest ends the monitoring: Ctrl-C may arrive twice at once, from the terminal and
    from Dagster.

    Args:
        status: The run's; None if it is not known.
        heard: Which signals arrived.
        is_executor_child: Whether this process runs one step for an executor; asked only if it matters.
        was_terminated: Whether a termination was asked for while this process worked on the run; asked only if it
            matters. Over `dagster/max_runtime`, Dagster asks for one and writes FAILURE right after (1.13, #12920).
        ends_at_once: Whether the user's Ctrl-C finds nothing to leave alone.
    """
    if status in _TERMINATED:
        return Intent.CANCEL
    if status in _TAKEN_OVER:
        # Unless that was the termination: somebody has marked the run, and whoever retries it finds the job.
        return Intent.CANCEL if was_terminated() else Intent.DETACH
    if not heard:
        return Intent.GO_ON
    if ends_at_once or heard[-1].at - heard[0].at >= _DELIBERATE_SECONDS or is_executor_child():
        return Intent.DETACH
    return Intent.GO_ON


def is_interrupt(heard: Sequence[Heard]) -> bool:
    """Whether one of them is a user's Ctrl-C."""
    return any(each.number == signal.SIGINT for each in heard)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS_SECONDS = 3.0
"""How old a run's status may be while nothing has happened."""


@dataclass
class RunSignals:
    """The account of one run.

    Args:
        instance: Where the run is recorded; None without a run.
        run: The run; None for a function that is called directly.
    """

    instance: DagsterInstance | None
    run: DagsterRun | None
    heard: list[Heard] = field(default_factory=list)
    status: DagsterRunStatus | None = None
    error: Exception | None = None
    _asked: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Note the signals of this process while the block lasts; on another thread than the main one none arrive."""
        replaced: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays so (`nohup`).
            heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            replaced = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield
        finally:
            for number, handler in replaced.items():
                # None stands for a handler that was not installed from Python.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.heard.append(Heard(time.monotonic(), number))

    def run_status(self, *, max_age_seconds: float) -> DagsterRunStatus | None:
        """The run's status, as it was not longer than that before this call.

        Without an answer it is what it was before, and `error` says why.
        """
        # A machine that sleeps in between has all the time that others need to end the run.
        # Of many threads that come while one asks, one asks for all.
        oldest = seconds_since_boot() - max_age_seconds
        with self._lock:
            if self.instance is not None and self.run is not None and self._asked <= oldest:
                self._asked = seconds_since_boot()
                try:
                    # `get_run_by_id` looks at the table's columns before, over a connection of its own: half its cost.
                    runs = self.instance.get_runs(RunsFilter(run_ids=[self.run.run_id]))
                except Exception as error:  # noqa: BLE001 - a database that is away must not end the monitoring of a job
                    self.error = error
                else:
                    self.error, self.status = None, runs[0].status if runs else None
            return self.status


class Shared:
    """The runs whose steps are on threads of this process."""

    def __init__(self) -> None:
        self._runs: dict[str, RunSignals] = {}

    @contextmanager
    def of_run(self, instance: DagsterInstance, run: DagsterRun) -> Iterator[None]:
        """Keep one account for all steps of a run."""
        mine = self._runs[run.run_id] = RunSignals(instance, run)
        try:
            with mine.listen():
                yield
        finally:
            del self._runs[run.run_id]

    def find(self, run: DagsterRun | None) -> RunSignals | None:
        """The account of a run whose steps are on threads of this process; None if they are not."""
        return None if run is None else self._runs.get(run.run_id)

    def is_to_stop(self, run_id: str) -> bool:
        """Whether no further step is to begin: the run was terminated or taken over, or this process is to end."""
        mine = self._runs[run_id]
        status = mine.run_status(max_age_seconds=0.0 if mine.heard and mine.status is None else STATUS_SECONDS)
        intent = decide_intent(status, mine.heard, lambda: False, was_terminated=lambda: False)
        return intent is not Intent.GO_ON


SHARED = Shared()


# Of a cluster that this process has not reached: its address may be wrong, and nothing of this work is there.
_FIRST_CONTACT_SECONDS = 30.0
# Or a job of this work may be there, which nobody would follow.
_REATTACHING_SECONDS = 300.0
_CALL_LOOK_SECONDS = 0.2
_IDLE_SECONDS = 2.0
_CANCEL_SECONDS = 300.0
_ANSWER_SECONDS = 30.0
_MAX_CORRUPTED = 3
_OUT_OF_REACH = (ConnectionFailedError, TransportTimeoutError)
# What was said of the way, in each run once.
_told: set[tuple[str, str]] = set()


class ClusterCalls:
    """The calls of one step.

    Args:
        step: The step.
        cluster: The cluster.
        interruptions: What may end a call before it has answered.
        may_be_submitted: Tells whether any process may have submitted what the calls are about; asked while the cluster
            is away.
    """

    def __init__(
        self, step: Step, cluster: SlurmCluster, interruptions: Interruptions, may_be_submitted: Callable[[], bool]
    ) -> None:
        self._may_be_submitted = may_be_submitted
        self._step = step
        self._cluster = cluster
        self._interruptions = interruptions
        self._cancel_until: float | None = None

    def persist(
        self, call: Callable[[], T], *, give_up_at: float = float("inf"), timeout_seconds: float | None = None
    ) -> T:
        """Make a call that may be made again, until it gives an answer.

        Args:
            call: The call.
            give_up_at: When it is not made again any more, by the monotonic clock.
            timeout_seconds: How long each try may take; None for as long as it takes.

        Raises:
            DagsterSlurmError: One that waiting does not mend.
            TerminationRequestedError: A user has terminated the run meanwhile.
            DagsterExecutionInterruptedError: The monitoring is to end.
        """
        return until_answered(
            lambda: self._made(call, timeout_seconds),
            tell=lambda text, level: self._step.log.log(level, text),
            reached=lambda: self._cluster.was_reached,
            first_contact_seconds=self._first_contact_seconds,
            sleep=self._interruptions.pause,
            give_up_at=give_up_at,
        )

    def _made(self, call: Callable[[], T], timeout_seconds: float | None) -> T:
        try:
            return self._beside(call, timeout_seconds)
        finally:
            remark = self._cluster.transport.remark
            told = (self._step.run.run_id if self._step.run else "", remark)
            if remark and told not in _told:
                _told.add(told)
                self._step.log.warning(remark)

    def _first_contact_seconds(self) -> float:
        return _REATTACHING_SECONDS if self._may_be_submitted() else _FIRST_CONTACT_SECONDS

    def persist_a_while(self, call: Callable[[], T]) -> T:
        """The same for a cancellation, which has five minutes from its first call on.

        Raises:
            DagsterSlurmError: One that waiting does not mend, or has not mended.
        """
        self._cancel_until = self._cancel_until or time.monotonic() + _CANCEL_SECONDS
        return self.persist(call, give_up_at=self._cancel_until, timeout_seconds=_ANSWER_SECONDS)

    def _beside(self, call: Callable[[], T], timeout_seconds: float | None) -> T:
        """Make a call that may take long beside this thread, which looks for interruptions meanwhile.

        A call that is left behind goes on by itself; what it does must be harmless then.

        Raises:
            TransportTimeoutError: It has not answered in time.
        """
        done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def work() -> None:
            try:
                done.put((True, call()))
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
                done.put((False, error))

        _CALLERS.do(work)
        give_up_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            try:
                succeeded, outcome = done.get(timeout=_CALL_LOOK_SECONDS)
            except queue.Empty:
                self._interruptions.check()
                if give_up_at is not None and time.monotonic() >= give_up_at:
                    said = f"no answer in {timeout_seconds:.0f} s"
                    raise TransportTimeoutError(said, host=self._cluster.host) from None
                continue
            if succeeded:
                return outcome  # type: ignore[no-any-return]
            raise outcome


class _Callers:
    """Threads that make calls beside others: a step makes four, and the start of a thread costs as much as some do.

    One that is left behind with a call comes back when that has ended. None lives long without work.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._idle: list[queue.SimpleQueue[Callable[[], None]]] = []

    def do(self, work: Callable[[], None]) -> None:
        """Have a thread do something that raises nothing."""
        if self._process != os.getpid():
            # A fork has no threads of its parent.
            self._process, self._idle = os.getpid(), []
        try:
            line = self._idle.pop()
        except IndexError:
            line = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(line,), name="dagster-slurm-call", daemon=True).start()
        line.put(work)

    def _serve(self, line: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            try:
                work = line.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                try:
                    self._idle.remove(line)
                except ValueError:
                    # Somebody has taken it just now, and its work comes.
                    continue
                return
            work()
            del work
            self._idle.append(line)


_CALLERS = _Callers()


def until_answered(
    call: Callable[[], T],
    *,
    tell: Callable[[str, str], None],
    reached: Callable[[], bool],
    first_contact_seconds: Callable[[], float],
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    give_up_at: float = float("inf"),
) -> T:
    """Make a call that may be made again, as often as it takes.

    A cluster that this process has reached before is waited for without limit, and so is a login that has expired. One
    that was never reached is given up after a while: its address may be wrong.

    Args:
        call: The call.
        tell: Told a text and its level when the cluster goes away and when it is back.
        reached: Whether this process has reached the cluster before.
        first_contact_seconds: How long one is tried that was never reached; asked once, when it does not answer.
        now: The clock, in seconds.
        sleep: Waits for some seconds.
        give_up_at: When it is not made again any more, whatever its error, by that clock.

    Raises:
        DagsterSlurmError: One that waiting does not mend.
    """
    begun, corrupted = now(), 0
    contact_until: float | None = None
    away, full = Pace(1.0, 30.0, 1.6, jitter=0.2), Pace(3.0, 6.0, 1.2, jitter=0.2)
    outage = Outage(away)
    while True:
        try:
            result = call()
        except DagsterSlurmError as error:
            corrupted += isinstance(error, TransferCorruptedError)
            if isinstance(error, _OUT_OF_REACH) and not reached() and contact_until is None:
                contact_until = begun + first_contact_seconds()
            limit = contact_until if isinstance(error, _OUT_OF_REACH) and not reached() else None
            is_late = now() >= give_up_at or (limit is not None and now() >= limit)
            if corrupted >= _MAX_CORRUPTED or is_late or not _is_worth_waiting(error, was_reached=reached()):
                raise
            # A place is taken again soon, and of all that wait for one, one asks (`SlurmCluster.check`).
            outage.pace = full if isinstance(error, SubmitLimitError) else away
            if outage.lost(now(), error):
                tell(f"{_what(error, None if limit is None else limit - now())}. {error}", "warning")
            due = outage.pace.due if limit is None else min(outage.pace.due, limit)
            sleep(max(0.0, due - now()))
        else:
            if outage.since is not None:
                does = "There is a place again" if outage.told is SubmitLimitError else "The cluster answers again"
                tell(f"{does}, after {now() - begun:.0f} s", "info")
            return result


def _what(error: DagsterSlurmError, left_seconds: float | None) -> str:
    if isinstance(error, SubmitLimitError):
        return "Slurm takes no more jobs now; waiting"
    if left_seconds is not None:
        return f"The cluster does not answer; it is tried for {max(0.0, left_seconds):.0f} s more"
    return "The cluster does not answer; waiting"


def _is_worth_waiting(error: DagsterSlurmError, *, was_reached: bool) -> bool:
    return error.transient or (was_reached and isinstance(error, (AuthenticationError, HostNotFoundError)))
