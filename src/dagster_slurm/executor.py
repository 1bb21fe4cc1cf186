"""`threaded_executor`: the steps of a run on threads of the run's own process.

A step that waits for its Slurm job costs a thread instead of a process of a hundred megabytes, and all of a run share
one login and one watcher. What touches Dagster's inside is in `pipes/dagster_execution.py`.
"""

from __future__ import annotations

import gc
import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dagster import DagsterEvent, DagsterExecutionInterruptedError, Executor, InitExecutorContext, executor

from dagster_slurm import descriptors
from dagster_slurm.pipes import dagster_execution as inside
from dagster_slurm.pipes.dagster_storage import kept_connections
from dagster_slurm.pipes.interruptions import SHARED
from dagster_slurm.pipes.run_notes import tags_at_the_end
from dagster_slurm.pipes.step_logs import ThreadStreams, lines_of_the_run

DEFAULT_MAX_CONCURRENT = 1000
_LOOK_SECONDS = 0.2
# The two files for what a step writes (150 steps: 304 of 320), and what the rest of a run needs, connections included.
_FOR_A_STEP = 2
_FOR_THE_REST = 64


class ThreadedExecutor(Executor):
    """Runs steps on threads.

    Args:
        config: What the executor's configuration says, in Dagster's own words.
    """

    def __init__(self, config: inside.ThreadedConfig) -> None:
        self._config = config

    @property
    def retries(self) -> Any:
        """Whether steps are retried."""
        return self._config.retries

    @property
    def step_dependency_config(self) -> Any:
        """Whether a step waits for the success of those before it, or for their outputs."""
        return self._config.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[DagsterEvent]:
        """Run a plan; resources are set up once, for all of its steps."""
        most = self._config.max_concurrent
        told = f"Executing steps on threads of this process, at most {most} at once"
        yield inside.engine_event_of_plan(plan_context, told, execution_plan.step_keys_to_execute)
        instance, run_id = plan_context.instance, plan_context.dagster_run.run_id
        with (
            _set_aside(),
            kept_connections(instance, run_id),
            lines_of_the_run(run_id),
            tags_at_the_end(instance, run_id),
        ):
            yield from inside.run_plan(self, plan_context, self._steps)

    def _steps(self, job_context: Any, execution_plan: Any) -> Iterator[DagsterEvent]:
        with (
            SHARED.of_run(job_context.instance, job_context.dagster_run),
            inside.active_execution(job_context, execution_plan, self._config) as active,
            inside.captured_for_the_run(job_context) as captured,
            ThreadStreams() as streams,
        ):
            yield from captured
            yield from _Loop(job_context, active, streams, self._config.max_concurrent).events()


@contextmanager
def _set_aside() -> Iterator[None]:
    """What is there when the steps begin is not searched for garbage while they run.

    A collection of the oldest generation goes through all that was imported, some 300,000 objects, and fifty steps
    leave enough for one: 0.1 s of CPU, in which no other thread runs. What nobody refers to is freed at once as ever.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass
class _Loop:
    """Starts steps as they become ready, and passes their events on, on the run's own thread."""

    job_context: Any
    active: Any
    streams: ThreadStreams
    limit: int
    in_flight: dict[threading.Thread, str] = field(default_factory=dict)
    news: queue.SimpleQueue[tuple[threading.Thread, str, Any]] = field(default_factory=queue.SimpleQueue)
    error: BaseException | None = None
    stopping: bool = False
    held: deque[threading.Thread] = field(default_factory=deque)
    is_told: bool = False
    seen: descriptors.Descriptors = field(default_factory=descriptors.look)

    def __post_init__(self) -> None:
        self.room = int(max(min(self.limit, (self.seen.free - _FOR_THE_REST) // _FOR_A_STEP), 1))

    def events(self) -> Iterator[DagsterEvent]:
        """Until every step has ended, or the run is interrupted and those that were begun have."""
        while self.in_flight or not (self.stopping or self.error or self.active.is_complete):
            self._look_for_interruptions()
            if not self.stopping and self.error is None:
                yield from self._begin()
            else:
                self._let_go()
            yield from self._news()
            yield from self.active.plan_events_iterator(self.job_context)
        if self.error is not None:
            raise self.error
        if self.stopping:
            self.active.mark_interrupted()
            raise DagsterExecutionInterruptedError("The run was terminated")

    def _look_for_interruptions(self) -> None:
        if not self.stopping and SHARED.is_to_stop(self.job_context.run_id):
            self.stopping = True

    def _begin(self) -> Iterator[DagsterEvent]:
        steps = self.active.get_steps_to_execute(limit=self.room - len(self.in_flight))
        yield from self.active.concurrency_event_iterator(self.job_context)
        for step in steps:
            context = self.job_context.for_step(step, self.active.get_known_state())
            thread = threading.Thread(target=self._run, args=(step.key, context), name=f"step {step.key}", daemon=True)
            self.in_flight[thread] = step.key
            self.held.append(thread)
        self._start()
        if len(self.in_flight) == self.room < self.limit:
            self._tell(f"{self.seen}, of which a step needs {_FOR_A_STEP} and all else {_FOR_THE_REST}")

    def _start(self) -> None:
        """Start the threads; those that the machine refuses wait for the end of others."""
        while self.held:
            try:
                self.held[0].start()
            except RuntimeError as error:
                if len(self.held) == len(self.in_flight):
                    raise
                self.room = len(self.in_flight) - len(self.held)
                self._tell(f"{error} (ulimit -u, or the limit of a container)")
                return
            self.held.popleft()

    def _let_go(self) -> None:
        """What was not started is not begun."""
        while self.held:
            del self.in_flight[self.held.popleft()]

    def _tell(self, why: str) -> None:
        if not self.is_told:
            self.is_told = True
            self.job_context.log.warning(f"Steps that run at once: {self.room}, of {self.limit} that may: {why}")

    def _run(self, key: str, context: Any) -> None:
        """On the step's thread."""
        thread = threading.current_thread()
        try:
            with inside.captured_for_a_step(context) as (event, files), self.streams.of_this_thread(files):
                self.news.put((thread, key, event))
                for each in inside.events_of_step(context):
                    self.news.put((thread, key, each))
        except BaseException as error:  # noqa: BLE001 - raised again by the run's own thread
            self.news.put((thread, key, error))
        self.news.put((thread, key, None))

    def _news(self) -> Iterator[DagsterEvent]:
        """What has happened: all of it, after the first wait."""
        timeout: float | None = _LOOK_SECONDS
        while True:
            try:
                thread, key, what = self.news.get(timeout=timeout) if timeout else self.news.get_nowait()
            except queue.Empty:
                return
            timeout = None
            if what is None:
                del self.in_flight[thread]
                thread.join()
                # Its retry may have begun already: that it is to be retried was told before its thread ended.
                if key not in self.in_flight.values():
                    self.active.verify_complete(self.job_context, key)
            elif isinstance(what, BaseException):
                self.error = self.error or what
            else:
                yield what
                if what.step_key == key:
                    self.active.handle_event(what)


@executor(name="threaded", config_schema=inside.THREADED_SCHEMA)
def threaded_executor(context: InitExecutorContext) -> Executor:
    """Runs the steps of a run on threads of the run's own process."""
    return ThreadedExecutor(inside.threaded_config(context.executor_config, DEFAULT_MAX_CONCURRENT))
