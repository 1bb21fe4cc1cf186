"""Every end in its own error type, and what the policy makes of it. On Slurm."""

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import BashLauncher, ComputeResource, Hook, LaunchPlan, Payload, Place, SlurmRetryPolicy
from dagster_slurm.errors import (
    JobCancelledError,
    JobDependencyError,
    JobFailedError,
    JobHeldError,
    JobNotStartedError,
    JobOutOfMemoryError,
    JobTimeLimitError,
    PayloadFailedError,
)
from dagster_slurm.sandbox import Sandbox
from tests.support.waiting import eventually, stretched

from .conftest import asset_of, compute_log, log_messages, metadata_of, run_asset

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

Make = Callable[..., ComputeResource]
ONE_MINUTE = {"time_limit": "00:01:00"}
OVER_ITS_WALLTIME = "[ $DAGSTER_SLURM_ATTEMPT = 1 ] || sleep 300; echo second\n"
Write = Callable[..., Path]

EATS_MEMORY = "data = []\nfor _ in range({mib}):\n    data.append(bytearray(b'x' * (1 << 20)))\nprint('ate', {mib})\n"


class SaysHowItEnds(BashLauncher):
    """With a hook whose last words are in stderr."""

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        hook = Hook("says", "says_end() { say ended; }\nsays_leave() { say left; }")
        return dataclasses.replace(super().plan(payload, place), hooks=(hook,))


def failed(asset_call: Callable[..., object], compute: ComputeResource, instance: dg.DagsterInstance) -> JobFailedError:
    """Materialise, and return the cause of the failure."""
    causes: list[BaseException | None] = []

    @dg.asset
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> None:
        try:
            asset_call(compute, context)
        except dg.Failure as failure:
            causes.append(failure.__cause__)
            raise

    result = run_asset(measured, compute, instance)
    assert not result.success
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    (cause,) = causes
    assert isinstance(cause, JobFailedError)
    metadata: Mapping[str, Any] = event.step_failure_data.user_failure_data.metadata  # type: ignore[union-attr]
    assert metadata["slurm_end"].value == type(cause).__name__
    assert metadata["slurm_is_worth_retrying"].value is cause.is_worth_retrying
    return cause


class TestTypes:
    """Told apart by their class and fields."""

    @pytest.mark.parametrize(("code", "signal"), [(7, 0), (139, 11)], ids=["exit code 7", "signal 11"])
    def test_the_payload(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, code: int, signal: int
    ) -> None:
        path = payload("exit 7\n" if not signal else f"kill -{signal} $$\n", name="payload.sh")
        error = failed(lambda compute, context: compute.run(context, path), slurm(), instance)
        assert type(error) is PayloadFailedError
        assert (error.exit_code, error.signal, error.is_worth_retrying) == (code, signal, False)

    def test_out_of_memory(self, slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload(EATS_MEMORY.format(mib=400))
        error = failed(
            lambda compute, context: compute.run(context, path, extra_slurm_opts={"mem": "60M"}), slurm(), instance
        )
        assert type(error) is JobOutOfMemoryError
        assert error.facts["asked_mem_mib"] == 60
        assert error.hint == "It had 60 MiB: raise `mem` (or `mem_per_cpu`)."
        assert error.first_line.startswith("Out of memory: Slurm job ")
        assert " used all of its 60 MiB on n" in error.first_line

    def test_cancelled_by_hand(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox
    ) -> None:
        path = payload("sleep 60\n", name="payload.sh")

        def cancel_and_run(compute: ComputeResource, context: dg.AssetExecutionContext) -> None:
            # 20.11 does not know `--me` here.
            cancel = ["scancel", "--state=PENDING", f"--user={sandbox.user}"]
            threading.Timer(3.0, lambda: sandbox.run(cancel)).start()
            compute.run(context, path, extra_slurm_opts={"begin": "now+1hour"})

        error = failed(cancel_and_run, slurm(), instance)
        assert type(error) is JobCancelledError
        assert not error.is_worth_retrying

    def test_waited_for_too_long(self, slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload("true\n", name="payload.sh")
        options = {"hold": True, "max_queue_hours": 2 / 3600}
        error = failed(lambda compute, context: compute.run(context, path, extra_slurm_opts=options), slurm(), instance)
        assert type(error) is JobHeldError
        assert re.fullmatch(
            r"Waited \d+ s for JobHeldUser, more than max_queue_hours: Slurm job \d+ was cancelled", error.first_line
        )
        assert isinstance(error, JobNotStartedError)

    def test_waited_for_too_long_while_the_login_node_is_away(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox
    ) -> None:
        path = payload("true\n", name="payload.sh")
        held = ["squeue", "--me", "--noheader", "--states=PENDING", "--format=%i"]
        before = set(sandbox.run(held).stdout.splitlines())
        mine: list[str] = []

        def disturb() -> None:
            job_id = eventually(lambda: set(sandbox.run(held).stdout.splitlines()) - before, "the job").pop()
            mine.append(job_id)
            with sandbox.broken("sshd"):
                time.sleep(stretched(6))

        thread = threading.Thread(target=disturb)
        thread.start()
        options = {"hold": True, "max_queue_hours": stretched(4) / 3600}
        error = failed(lambda compute, context: compute.run(context, path, extra_slurm_opts=options), slurm(), instance)
        thread.join()
        assert type(error) is JobHeldError
        assert f"Slurm job {mine[0]} was cancelled" in error.first_line
        state = ["sacct", "-X", "-n", "-P", "--format=State", f"--jobs={mine[0]}"]
        eventually(lambda: sandbox.run(state).stdout.startswith("CANCELLED"), "the end in the accounting")

    @pytest.mark.parametrize("ends_by", ["max_queue_hours", "kill_on_invalid_dep"])
    def test_the_dependency_is_never_satisfied(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox, ends_by: str
    ) -> None:
        path = payload("true\n", name="payload.sh")
        other = sandbox.run(["sbatch", "--parsable", "--hold", "--wrap=exit 1"]).stdout.strip()
        # Before that, Slurm would refuse ours.
        waiting = ["squeue", "--me", "--noheader", "--states=PENDING", "--format=%E"]

        def release() -> None:
            eventually(lambda: f"afterok:{other}" in sandbox.run(waiting).stdout, "a job that depends on the other")
            sandbox.run(["scontrol", "release", other])

        given = {"max_queue_hours": stretched(8) / 3600, "kill_on_invalid_dep": "yes"}
        options = {ends_by: given[ends_by], "dependency": f"afterok:{other}"}
        thread = threading.Thread(target=release)
        thread.start()
        error = failed(lambda compute, context: compute.run(context, path, extra_slurm_opts=options), slurm(), instance)
        thread.join()
        assert type(error) is JobDependencyError, (error.facts, str(error))


class TestPolicy:
    """Attempts within one step."""

    def test_out_of_memory_raises_memory(self, slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload(EATS_MEMORY.format(mib=150))
        policy = SlurmRetryPolicy(memory_factor=4, max_mem="300M")

        @dg.asset
        def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            run = compute.run(context, path, extra_slurm_opts={"mem": "60M"}, retry_policy=policy)
            return run.get_materialize_result()

        result = run_asset(measured, slurm(), instance)
        assert result.success
        assert "ate 150" in compute_log(result, instance)
        (reason,) = [text for text in log_messages(result, instance) if "ended as OUT_OF_MEMORY" in text]
        assert "the next attempt has 240M" in reason
        assert metadata_of(result)["slurm_state"] == "COMPLETED"

    def test_over_its_walltime(self, slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload(OVER_ITS_WALLTIME, name="payload.sh")
        compute = slurm(default_launcher=SaysHowItEnds(), cleanup_on_failure=False)
        error = failed(
            lambda compute, context: compute.run(context, path, extra_slurm_opts=ONE_MINUTE), compute, instance
        )
        assert type(error) is JobTimeLimitError
        assert error.stderr_tail.splitlines()[-2:] == ["dagster-slurm: ended", "dagster-slurm: left"], error.stderr_tail
        assert error.facts["time_limit_seconds"] == 60
        assert "It had 00:01:00" in str(error)

    @pytest.mark.all_faults
    def test_over_its_walltime_with_a_policy(self, slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload(OVER_ITS_WALLTIME, name="payload.sh")
        policy = SlurmRetryPolicy(max_time_limit="00:03:00")
        result = run_asset(asset_of(path, extra_slurm_opts=ONE_MINUTE, retry_policy=policy), slurm(), instance)
        assert result.success
        (reason,) = [text for text in log_messages(result, instance) if "ended as TIMEOUT" in text]
        assert "the next attempt has 00:02:00" in reason
        assert metadata_of(result)["slurm_state"] == "COMPLETED"

    def test_a_failing_payload_is_not_tried_again(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write
    ) -> None:
        path = payload("exit 3\n", name="payload.sh")
        error = failed(
            lambda compute, context: compute.run(context, path), slurm(retry_policy=SlurmRetryPolicy()), instance
        )
        assert type(error) is PayloadFailedError


class TestChain:
    """Work that goes on in further jobs."""

    def test_from_its_checkpoint(self, slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload(
            "done=$DAGSTER_SLURM_CHECKPOINT_DIR/done\n"
            "echo part $DAGSTER_SLURM_ATTEMPT in job $SLURM_JOB_ID >>$done\n"
            "[ $(wc -l <$done) -ge 3 ] || exit 85\n"
            "cat $done\n",
            name="payload.sh",
        )

        @dg.asset
        def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            return compute.run(context, path, continue_exit_code=85).get_materialize_result()

        result = run_asset(measured, slurm(), instance)
        assert result.success
        lines = compute_log(result, instance).splitlines()
        assert [line.split()[1] for line in lines] == ["0", "1", "2"]
        assert len({line.split()[-1] for line in lines}) == 3
        went_on = [text for text in log_messages(result, instance) if "goes on from its checkpoint" in text]
        assert len(went_on) == 2
        assert len(result.get_asset_materialization_events()) == 1

    def test_without_an_end(self, slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload("exit 85\n", name="payload.sh")
        compute = slurm(continue_exit_code=85, max_continuations=1)
        error = failed(lambda compute, context: compute.run(context, path), compute, instance)
        assert type(error) is PayloadFailedError
        assert error.exit_code == 85
