"""The cases of Dagster's own tests of its executors (1.13, `execution_tests/engine_tests`), written for this one.

Left out is what only processes have: start methods, children that crash, and step handlers.
"""

import json
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import ReexecutionOptions, execute_job, execute_run

from dagster_slurm import threaded_executor

from ..support import forked
from ..support.forked import ROOT
from ..support.instances import empty_instance
from .test_threaded import keys, run

pytestmark = pytest.mark.process


@dg.op
def two() -> int:
    return 2


@dg.op
def add_three(number: int) -> int:
    return number + 3


@dg.op
def times_three(number: int) -> int:
    return number * 3


@dg.op
def added(left: int, right: int) -> int:
    return left + right


@dg.graph
def diamond() -> None:
    number = two()
    added(add_three(number), times_three(number))


def output_of(result: Any, instance: DagsterInstance, step: str) -> Any:
    """What a step left behind, by the instance's own storage."""
    path = Path(instance.storage_directory(), result.run_id, step, "result")
    return pickle.loads(path.read_bytes())


# -- what is computed


def test_diamond(instance: DagsterInstance) -> None:
    result = run(diamond.to_job(executor_def=threaded_executor), instance)
    assert result.success
    assert output_of(result, instance, "added") == 11


@pytest.mark.parametrize("io_manager", [dg.mem_io_manager, dg.fs_io_manager])
def test_values_in_memory(instance: DagsterInstance, io_manager: dg.IOManagerDefinition) -> None:
    """The multiprocess executor refuses it."""
    job = diamond.to_job(executor_def=threaded_executor, resource_defs={"io_manager": io_manager})
    assert run(job, instance).success


def test_ephemeral_instance_and_a_job_that_cannot_be_loaded() -> None:
    """The multiprocess executor refuses both."""
    with DagsterInstance.ephemeral() as ephemeral:
        assert run(diamond.to_job(executor_def=threaded_executor), ephemeral).success


def test_part_of_a_job(instance: DagsterInstance) -> None:
    job = diamond.to_job(executor_def=threaded_executor).get_subset(op_selection=["two", "add_three"])
    result = run(job, instance)
    assert keys(result, "STEP_SUCCESS") == ["add_three", "two"]


# -- failures


def test_nothing_behind_a_failure_is_executed(instance: DagsterInstance) -> None:
    @dg.op
    def fails() -> int:
        raise ValueError("on purpose")

    @dg.job(executor_def=threaded_executor)
    def failing() -> None:
        add_three(fails())
        add_three.alias("other")(two())

    result = run(failing, instance)
    assert not result.success
    assert keys(result, "STEP_START") == ["fails", "other", "two"]
    assert keys(result, "STEP_FAILURE") == ["fails"]
    assert instance.get_run_by_id(result.run_id).status == DagsterRunStatus.FAILURE  # type: ignore[union-attr]


def test_what_a_failure_says(instance: DagsterInstance) -> None:
    @dg.op
    def fails() -> None:
        raise dg.Failure("it failed", metadata={"label": "text"})

    @dg.job(executor_def=threaded_executor)
    def failing() -> None:
        fails()

    (event,) = [each for each in run(failing, instance).all_events if each.event_type_value == "STEP_FAILURE"]
    data = event.event_specific_data
    assert data.error.cls_name == "Failure"
    assert data.user_failure_data.description == "it failed"
    assert data.user_failure_data.metadata["label"].value == "text"


def test_a_step_that_exits_fails_the_run(instance: DagsterInstance) -> None:
    """A child of the multiprocess executor would crash; here the process is the run's own."""

    @dg.op
    def exits() -> None:
        sys.exit(3)

    @dg.job(executor_def=threaded_executor)
    def exiting() -> None:
        exits()

    result = run(exiting, instance)
    assert not result.success
    assert instance.get_run_by_id(result.run_id).status == DagsterRunStatus.FAILURE  # type: ignore[union-attr]


def test_a_resource_that_cannot_be_made_fails_the_run(instance: DagsterInstance) -> None:
    @dg.resource
    def broken() -> None:
        raise ValueError("on purpose")

    @dg.op(required_resource_keys={"broken"})
    def uses() -> None: ...

    @dg.job(executor_def=threaded_executor, resource_defs={"broken": broken})
    def using() -> None:
        uses()

    result = run(using, instance)
    assert not result.success
    assert keys(result, "STEP_START") == []


def test_resources_are_made_once_and_taken_down_at_the_end(instance: DagsterInstance) -> None:
    told: list[str] = []

    @dg.resource
    def counted() -> Iterator[str]:
        told.append("made")
        yield "value"
        told.append("taken down")

    @dg.op(required_resource_keys={"counted"})
    def uses(context: dg.OpExecutionContext) -> None:
        told.append(context.resources.counted)

    @dg.job(executor_def=threaded_executor, resource_defs={"counted": counted})
    def using() -> None:
        for number in range(3):
            uses.alias(f"uses_{number}")()

    assert run(using, instance).success
    assert told == ["made", "value", "value", "value", "taken down"]


# -- order


def test_one_that_waits_blocks_no_other(instance: DagsterInstance) -> None:
    written = threading.Event()

    @dg.op
    def waits() -> None:
        assert written.wait(30)

    @dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
    def passes() -> None: ...

    @dg.op(ins={"after": dg.In(dg.Nothing)})
    def writes() -> None:
        written.set()

    @dg.job(executor_def=threaded_executor)
    def separate() -> None:
        waits()
        first = passes.alias("passes_1")()
        writes(passes.alias("passes_2")(first))

    result = run(separate, instance, max_concurrent=2)
    assert result.success
    order = [each.step_key for each in result.all_events if each.event_type_value == "STEP_SUCCESS"]
    assert order[:2] == ["passes_1", "passes_2"]


def test_priorities(instance: DagsterInstance) -> None:
    @dg.op
    def plain() -> None: ...

    @dg.job(executor_def=threaded_executor)
    def ordered() -> None:
        for name, priority in (("none", None), ("low", "-1"), ("high", "1")):
            made = plain.alias(name)
            (made.tag({"dagster/priority": priority}) if priority else made)()

    result = run(ordered, instance, max_concurrent=1)
    started = [each.step_key for each in result.all_events if each.event_type_value == "STEP_START"]
    assert started == ["high", "none", "low"]


def test_one_at_a_time(instance: DagsterInstance) -> None:
    @dg.op
    def plain() -> None:
        time.sleep(0.01)

    @dg.job(executor_def=threaded_executor)
    def many() -> None:
        for number in range(5):
            plain.alias(f"plain_{number}")()

    result = run(many, instance, max_concurrent=1)
    kinds = ("STEP_START", "STEP_SUCCESS")
    told = [each for each in result.all_events if each.event_type_value in kinds]
    assert [each.event_type_value for each in told] == [*kinds] * 5
    assert all(first.step_key == second.step_key for first, second in zip(told[::2], told[1::2], strict=True))


def test_a_limit_for_each_value_of_a_tag(instance: DagsterInstance) -> None:
    now: dict[str, int] = {"a": 0, "b": 0}
    most = dict(now)
    lock = threading.Lock()

    @dg.op
    def counted(context: dg.OpExecutionContext) -> None:
        value = context.op_handle.name[0]
        with lock:
            now[value] += 1
            most[value] = max(most[value], now[value])
        time.sleep(0.05)
        with lock:
            now[value] -= 1

    @dg.job(executor_def=threaded_executor)
    def many() -> None:
        for number in range(3):
            for value in ("a", "b"):
                counted.alias(f"{value}_{number}").tag({"of": value})()

    limit = {"key": "of", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
    assert run(many, instance, tag_concurrency_limits=[limit]).success
    assert most == {"a": 1, "b": 1}


# -- skips, retries, dynamic mapping


def test_outputs_that_may_be_missing(instance: DagsterInstance) -> None:
    @dg.op(out={"one": dg.Out(is_required=False), "other": dg.Out(is_required=False)})
    def either() -> Iterator[dg.Output[int]]:
        yield dg.Output(1, "one")

    @dg.job(executor_def=threaded_executor)
    def optional() -> None:
        one, other = either()
        add_three.alias("behind_one")(add_three.alias("one")(one))
        add_three.alias("behind_other")(add_three.alias("other")(other))

    result = run(optional, instance)
    assert result.success
    assert keys(result, "STEP_SKIPPED") == ["behind_other", "other"]


@pytest.mark.parametrize(("config", "tries"), [({}, 3), ({"retries": {"disabled": {}}}, 1)])
def test_retries(instance: DagsterInstance, config: dict[str, Any], tries: int) -> None:
    tried: list[int] = []

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=0.05))
    def fails() -> None:
        tried.append(1)
        raise ValueError("on purpose")

    @dg.job(executor_def=threaded_executor)
    def failing() -> None:
        fails()

    result = run(failing, instance, **config)
    assert not result.success
    assert len(tried) == tries
    assert len(keys(result, "STEP_RESTARTED")) == tries - 1


def test_mapping_over_nothing_skips_what_follows(instance: DagsterInstance) -> None:
    @dg.op(out=dg.DynamicOut())
    def nothing() -> Iterator[dg.DynamicOutput[int]]:
        yield from ()

    @dg.op
    def gather(values: list[int]) -> int:
        return sum(values)

    @dg.job(executor_def=threaded_executor)
    def mapped() -> None:
        gather(nothing().map(add_three).collect())

    result = run(mapped, instance)
    assert result.success
    assert output_of(result, instance, "gather") == 0


def test_a_mapped_step_that_fails_fails_alone(instance: DagsterInstance) -> None:
    @dg.op(out=dg.DynamicOut())
    def spread() -> Iterator[dg.DynamicOutput[int]]:
        for number in range(3):
            yield dg.DynamicOutput(number, mapping_key=f"n{number}")

    @dg.op
    def not_one(value: int) -> int:
        assert value != 1
        return value

    @dg.op
    def gather(values: list[int]) -> int:
        return sum(values)

    @dg.job(executor_def=threaded_executor)
    def mapped() -> None:
        gather(spread().map(not_one).collect())

    result = run(mapped, instance)
    assert keys(result, "STEP_SUCCESS") == ["not_one[n0]", "not_one[n2]", "spread"]
    assert keys(result, "STEP_FAILURE") == ["not_one[n1]"]


def test_where_only_the_output_is_waited_for(instance: DagsterInstance) -> None:
    """`require_upstream_step_success: false`: what needs an output begins with it, before its step has ended."""
    seen = threading.Event()

    @dg.op(out={"early": dg.Out(), "late": dg.Out()})
    def slow() -> Iterator[dg.Output[int]]:
        yield dg.Output(1, "early")
        assert seen.wait(30)
        yield dg.Output(2, "late")

    @dg.op
    def sees(value: int) -> None:
        seen.set()

    @dg.job(executor_def=threaded_executor)
    def eager() -> None:
        early, _ = slow()
        sees(early)

    config = {"step_dependency_config": {"require_upstream_step_success": False}}
    assert run(eager, instance, **config).success


flaky_has_failed = threading.Event()


@dg.op
def fails_once(number: int) -> int:
    if not flaky_has_failed.is_set():
        flaky_has_failed.set()
        raise ValueError("the first time")
    return number


@dg.job(executor_def=threaded_executor)
def fails_the_first_time() -> None:
    times_three(fails_once(add_three(two())))


def job_that_fails_the_first_time() -> dg.JobDefinition:
    return fails_the_first_time


def test_execution_from_failure(instance: DagsterInstance) -> None:
    flaky_has_failed.clear()
    job = dg.reconstructable(job_that_fails_the_first_time)
    with execute_job(job, instance) as first:
        assert not first.success
        parent = first.run_id
    options = ReexecutionOptions.from_failure(parent, instance)
    with execute_job(job, instance, reexecution_options=options) as second:
        assert second.success
        assert keys(second, "STEP_START") == ["fails_once", "times_three"]
        assert second.output_for_node("times_three") == 15


# -- pools


@dg.op(pool="small")
def in_the_pool(context: dg.OpExecutionContext) -> int:
    time.sleep(0.1)
    return context.instance.event_log_storage.get_concurrency_info("small").active_slot_count


@dg.job(executor_def=threaded_executor)
def five_in_the_pool() -> None:
    for number in range(5):
        in_the_pool.alias(f"in_the_pool_{number}")()


def slots_taken(instance: DagsterInstance) -> int:
    return instance.event_log_storage.get_concurrency_info("small").active_slot_count


@pytest.mark.parametrize("slots", [1, 3])
def test_pools(instance: DagsterInstance, slots: int) -> None:
    instance.event_log_storage.set_concurrency_slots("small", slots)
    result = run(five_in_the_pool, instance)
    assert result.success
    taken = [output_of(result, instance, f"in_the_pool_{number}") for number in range(5)]
    assert max(taken) <= slots
    assert any("blocked by" in (event.message or "") for event in result.all_events)
    assert slots_taken(instance) == 0


RUN_IN_THE_POOL = """
import json, sys
from dagster import DagsterInstance
from tests.executor.test_dagster_cases import five_in_the_pool, output_of, run

with DagsterInstance.local_temp(sys.argv[1]) as instance:
    done = run(five_in_the_pool, instance)
    print(json.dumps([output_of(done, instance, f"in_the_pool_{number}") for number in range(5)]))
    assert done.success
"""


def test_a_pool_for_two_runs(tmp_path: Path) -> None:
    """Two processes: a run that starts may wait for ever for one in the same process that writes an event.

    One holds the lock of Python's logging and waits for a handler, the other that of the handler (Dagster 1.13.28,
    `get_yaml_python_handlers`).
    """
    with empty_instance(tmp_path / "home") as instance:
        instance.event_log_storage.set_concurrency_slots("small", 2)
        argv = [sys.executable, "-c", RUN_IN_THE_POOL, str(tmp_path / "home")]
        with ThreadPoolExecutor(2) as both:
            done = list(both.map(lambda _: forked.run(argv, cwd=ROOT, timeout=120), range(2)))
        assert [each.returncode for each in done] == [0, 0], done
        taken = [number for each in done for number in json.loads(each.stdout.splitlines()[-1])]
        assert len(taken) == 10
        assert max(taken) <= 2
        assert slots_taken(instance) == 0


def test_a_failure_gives_its_place_in_the_pool_back(instance: DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots("small", 1)

    @dg.op(pool="small", retry_policy=dg.RetryPolicy(max_retries=1))
    def fails() -> None:
        raise dg.Failure("on purpose")

    @dg.job(executor_def=threaded_executor)
    def failing() -> None:
        fails()
        in_the_pool()

    result = run(failing, instance)
    assert keys(result, "STEP_FAILURE") == ["fails"]
    assert keys(result, "STEP_SUCCESS") == ["in_the_pool"]
    assert slots_taken(instance) == 0


# -- assets


def test_assets_with_checks_and_partitions(instance: DagsterInstance) -> None:
    days = dg.StaticPartitionsDefinition(["mon", "tue"])

    @dg.asset(partitions_def=days)
    def upstream(context: dg.AssetExecutionContext) -> str:
        return context.partition_key

    @dg.asset(partitions_def=days, check_specs=[dg.AssetCheckSpec("right", asset="downstream")])
    def downstream(upstream: str) -> Iterator[dg.Output[str] | dg.AssetCheckResult]:
        yield dg.Output(upstream)
        yield dg.AssetCheckResult(passed=upstream == "tue", check_name="right")

    job = dg.Definitions(
        assets=[upstream, downstream],
        jobs=[dg.define_asset_job("all", "*", executor_def=threaded_executor)],
    ).resolve_job_def("all")
    created = instance.create_run_for_job(job_def=job, tags={"dagster/partition": "tue"})
    result = execute_run(InMemoryJob(job), created, instance)
    assert result.success
    assert len(keys(result, "ASSET_MATERIALIZATION")) == 2
    (check,) = [each for each in result.all_events if each.event_type_value == "ASSET_CHECK_EVALUATION"]
    assert check.event_specific_data.passed
