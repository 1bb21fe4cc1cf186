"""`threaded_executor` with real runs: what Dagster's own executors do, at once and in one process."""

import logging
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from dagster_slurm import ComputeResource, descriptors, executor, threaded_executor
from dagster_slurm.pipes import dagster_execution
from tests.support.instances import lay_out_storage

pytestmark = pytest.mark.process


def run(
    job: dg.JobDefinition, instance: dg.DagsterInstance, *, tags: Mapping[str, str] | None = None, **config: Any
) -> Any:
    """Execute a job with the executor that it has, as a run worker does; its code need not be importable."""
    run_config = {"execution": {"config": config}} if config else {}
    created = instance.create_run_for_job(job_def=job, run_config=run_config, tags=tags)
    return execute_run(InMemoryJob(job), created, instance)


def log_of(result: Any, instance: dg.DagsterInstance, step: str, stream: str = "stdout") -> str:
    """What the compute log of one step holds."""
    captured = [
        event
        for event in result.all_events
        if event.event_type_value == "LOGS_CAPTURED" and step in event.event_specific_data.step_keys
    ]
    key = [result.run_id, "compute_logs", captured[-1].event_specific_data.file_key]
    return (getattr(instance.compute_log_manager.get_log_data(key), stream) or b"").decode()


def keys(result: Any, kind: str) -> list[str]:
    return sorted(event.step_key for event in result.all_events if event.event_type_value == kind)


def test_steps_run_at_once_in_one_process(instance: dg.DagsterInstance) -> None:
    together = threading.Barrier(20, timeout=30)
    seen: set[int] = set()

    @dg.op
    def meet() -> None:
        together.wait()
        seen.add(os.getpid())

    @dg.job(executor_def=threaded_executor)
    def many() -> None:
        for number in range(20):
            meet.alias(f"meet_{number}")()

    assert run(many, instance).success
    assert seen == {os.getpid()}


def test_no_more_than_asked_for(instance: dg.DagsterInstance) -> None:
    lock, now, most = threading.Lock(), [0], [0]
    together = threading.Barrier(3, timeout=30)

    @dg.op
    def counted() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait()
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    @dg.job(executor_def=threaded_executor)
    def many() -> None:
        for number in range(12):
            counted.alias(f"counted_{number}")()

    assert run(many, instance, max_concurrent=3).success
    assert most[0] == 3


@contextmanager
def few_descriptors(free: int) -> Iterator[None]:
    """As under `ulimit -n`, with so many that are not in use yet."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors.look().opened + free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def warnings_of(result: Any, instance: dg.DagsterInstance) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(result.run_id) if entry.level == logging.WARNING]


@pytest.mark.parametrize("count", [60, 5])
def test_fewer_at_once_where_descriptors_are_few(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Each needs two: "Too many open files" ended the whole run, of 112 steps under 256."""
    told_of, tell = threading.Event(), executor._Loop._tell

    def noted(*args: Any) -> None:
        tell(*args)
        told_of.set()

    monkeypatch.setattr(executor._Loop, "_tell", noted)

    @dg.op
    def waits() -> None:
        # None ends before as many run as may.
        assert count < 20 or told_of.wait(60)

    @dg.job(executor_def=threaded_executor)
    def many() -> None:
        for number in range(count):
            waits.alias(f"waits_{number}")()

    with few_descriptors(64 + 2 * 20):
        result = run(many, instance)
    assert result.success
    told = warnings_of(result, instance)
    assert len(told) == (count > 20)
    assert all(re.search(r"Steps that run at once: (1\d|20), of 1000 that may: .*\(ulimit -n\)", line) for line in told)


def test_payloads_of_this_machine_wait_for_descriptors(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They failed with "Too many open files"."""
    payload, is_enough = tmp_path / "wait.sh", descriptors.Room._is_enough
    # None ends before another one waits.
    payload.write_text(f"until [ -e {tmp_path}/one-waits ]; do sleep 0.05; done\n")

    def noted(room: descriptors.Room) -> bool:
        if not (found := is_enough(room)):
            (tmp_path / "one-waits").touch()
        return found

    monkeypatch.setattr(descriptors.Room, "_is_enough", noted)

    @dg.op
    def waits(context: dg.OpExecutionContext, compute: ComputeResource) -> None:
        compute.run(context, payload)

    @dg.job(executor_def=threaded_executor, resource_defs={"compute": ComputeResource(mode="local")})
    def many() -> None:
        for number in range(16):
            waits.alias(f"waits_{number}")()

    with few_descriptors(64 + 2 * 16):
        result = run(many, instance)
    assert (result.success, len(keys(result, "STEP_SUCCESS"))) == (True, 16)
    assert any("begins when others have ended" in line for line in warnings_of(result, instance))


def test_threads_that_the_machine_refuses_wait(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = threading.Thread.start, []

    def start_few(thread: threading.Thread) -> None:
        if thread.name.startswith("step ") and sum(each.name.startswith("step ") for each in threading.enumerate()) > 4:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_few)

    @dg.op
    def waits() -> None:
        time.sleep(0.1)

    @dg.job(executor_def=threaded_executor)
    def many() -> None:
        for number in range(12):
            waits.alias(f"waits_{number}")()

    result = run(many, instance)
    assert (result.success, len(keys(result, "STEP_SUCCESS"))) == (True, 12)
    assert refused
    (told,) = warnings_of(result, instance)
    assert re.search(r"Steps that run at once: \d+, of 1000 that may: can't start new thread", told)


def test_limits_by_tag(instance: dg.DagsterInstance) -> None:
    lock, now, most = threading.Lock(), [0], [0]
    together = threading.Barrier(2, timeout=30)

    @dg.op(tags={"database": "small"})
    def counted() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait()
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    @dg.job(executor_def=threaded_executor)
    def many() -> None:
        for number in range(6):
            counted.alias(f"counted_{number}")()

    assert run(many, instance, tag_concurrency_limits=[{"key": "database", "value": "small", "limit": 2}]).success
    assert most[0] == 2


def test_each_step_has_its_own_log(instance: dg.DagsterInstance) -> None:
    @dg.op
    def speak(context: dg.OpExecutionContext) -> None:
        for number in range(20):
            print(f"{context.op_handle.name} says {number}")
            print("to stderr", file=sys.stderr)
            time.sleep(0.002)

    @dg.job(executor_def=threaded_executor)
    def many() -> None:
        for number in range(5):
            speak.alias(f"speak_{number}")()

    result = run(many, instance)
    for number in range(5):
        assert log_of(result, instance, f"speak_{number}").splitlines() == [
            f"speak_{number} says {n}" for n in range(20)
        ]


def test_order_failure_skip_and_values(instance: dg.DagsterInstance) -> None:
    @dg.op
    def one() -> int:
        return 1

    @dg.op
    def fails(value: int) -> int:
        raise ValueError("on purpose")

    @dg.op(out=dg.Out(is_required=False))
    def nothing() -> Iterator[dg.Output[int]]:
        yield from ()

    @dg.op
    def add(value: int) -> int:
        assert value == 1
        return value + 1

    @dg.job(executor_def=threaded_executor)
    def mixed() -> None:
        value = one()
        add(value)
        add.alias("after_failure")(fails(value))
        add.alias("after_nothing")(nothing())

    result = run(mixed, instance)
    assert not result.success
    assert keys(result, "STEP_SUCCESS") == ["add", "nothing", "one"]
    assert keys(result, "STEP_FAILURE") == ["fails"]
    assert keys(result, "STEP_SKIPPED") == ["after_nothing"]


def test_retries_hooks_and_dynamic_mapping(instance: dg.DagsterInstance) -> None:
    tries: list[str] = []
    hooked: list[str] = []

    @dg.success_hook
    def on_success(context: dg.HookContext) -> None:
        hooked.append(context.step_key)

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=0.1))
    def flaky(context: dg.OpExecutionContext, value: int) -> int:
        tries.append(context.get_mapping_key() or "")
        if tries.count(context.get_mapping_key() or "") < 2:
            raise ValueError("not yet")
        return value

    @dg.op(out=dg.DynamicOut())
    def spread() -> Iterator[dg.DynamicOutput[int]]:
        for number in range(4):
            yield dg.DynamicOutput(number, mapping_key=f"n{number}")

    @dg.op
    def gather(values: list[int]) -> int:
        return sum(values)

    @dg.job(executor_def=threaded_executor, hooks={on_success})
    def mapped() -> None:
        gather(spread().map(flaky).collect())

    result = run(mapped, instance)
    assert result.success
    assert sorted(tries) == sorted([f"n{number}" for number in range(4)] * 2)
    assert len(keys(result, "STEP_UP_FOR_RETRY")) == 4
    assert sorted(hooked) == sorted(["gather", "spread", *(f"flaky[n{number}]" for number in range(4))])


def test_a_retry_may_begin_before_the_thread_of_its_first_attempt_has_ended(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine, where to close the log of a step takes its time."""
    captured = dagster_execution.captured_for_a_step

    @contextmanager
    def slowly(context: Any) -> Iterator[Any]:
        with captured(context) as it:
            yield it
            time.sleep(0.3)

    monkeypatch.setattr(dagster_execution, "captured_for_a_step", slowly)
    tries: list[int] = []

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
    def flaky() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("not yet")
        time.sleep(0.6)

    @dg.job(executor_def=threaded_executor)
    def retried() -> None:
        flaky()

    result = run(retried, instance)
    assert result.success
    assert len(tries) == 2
    assert (keys(result, "STEP_UP_FOR_RETRY"), keys(result, "STEP_SUCCESS")) == (["flaky"], ["flaky"])


def test_two_hundred(instance: dg.DagsterInstance) -> None:
    @dg.op
    def waits() -> None:
        time.sleep(1.0)

    @dg.job(executor_def=threaded_executor)
    def many() -> None:
        for number in range(200):
            waits.alias(f"waits_{number}")()

    began = time.monotonic()
    result = run(many, instance)
    print(f"{time.monotonic() - began:.1f} s")
    assert result.success
    assert len(keys(result, "STEP_SUCCESS")) == 200


@pytest.fixture
def with_a_cloud(tmp_path: Path) -> Iterator[Callable[..., dg.DagsterInstance]]:
    """Makes an instance whose compute logs go to a stand-in for a cloud's storage."""
    with ExitStack() as stack:

        def made(**config: object) -> dg.DagsterInstance:
            manager = {"module": "tests.stand_ins.cloud_logs", "class": "CloudLogs"}
            overrides = {
                "telemetry": {"enabled": False},
                "compute_logs": {**manager, "config": {"bucket": str(tmp_path / "bucket"), **config}},
            }
            lay_out_storage(tmp_path)
            return stack.enter_context(dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides))

        yield made


@dg.op
def talks(context: dg.OpExecutionContext) -> None:
    print("said by", context.op_handle.name)
    print("complained of by", context.op_handle.name, file=sys.stderr)


@dg.job(executor_def=threaded_executor)
def talking() -> None:
    for number in range(3):
        talks.alias(f"talks_{number}")()


def test_a_cloud_gets_the_logs_of_each_step_once(with_a_cloud: Callable[..., dg.DagsterInstance]) -> None:
    """Each stream was uploaded as it was closed, together with the other, whose file was gone then (dagster#2058)."""
    instance = with_a_cloud()
    result = run(talking, instance)
    assert result.success
    for number in range(3):
        assert log_of(result, instance, f"talks_{number}") == f"said by talks_{number}\n"
        assert f"complained of by talks_{number}\n" in log_of(result, instance, f"talks_{number}", "stderr")
    uploads = instance.compute_log_manager.uploads  # type: ignore[attr-defined]
    assert len(uploads) == len(set(uploads)) == 2 * (3 + 1)


def test_a_cloud_that_is_away_fails_nothing(with_a_cloud: Callable[..., dg.DagsterInstance]) -> None:
    instance = with_a_cloud(is_away=True)
    result = run(talking, instance)
    assert result.success
    said = [each.user_message for each in instance.all_logs(result.run_id) if "were not uploaded" in each.user_message]
    assert len(said) == 3 + 1
    assert "the bucket is away" in said[0]
    assert log_of(result, instance, "talks_0") == "said by talks_0\n"
