"""What a failure's first line says, what comes after it, and whether it is tried again: through real Dagster runs."""

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.errors import DagsterSlurmError, PayloadFailedError
from dagster_slurm.pipes import interruptions
from dagster_slurm.pipes.launch_key import may_have_begun, piece_of_work
from dagster_slurm.pipes.step import Step

from .conftest import log_messages

pytestmark = pytest.mark.process

Write = Callable[..., Path]


class Tried:
    """An asset with a RetryPolicy, and what came of it."""

    def __init__(self, instance: dg.DagsterInstance, compute: ComputeResource) -> None:
        self.instance = instance
        self.compute = compute
        self.bodies = 0
        self.causes: list[BaseException | None] = []

    def run(self, path: Path | str, *, retries: int = 2, **call: Any) -> str:
        """The text of the step's failure."""

        @dg.asset(retry_policy=dg.RetryPolicy(max_retries=retries) if retries else None)
        def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> None:
            self.bodies += 1
            try:
                compute.run(context, path, **call)
            except dg.Failure as failure:
                self.causes.append(failure.__cause__)
                raise

        result = dg.materialize(
            [measured], resources={"compute": self.compute}, instance=self.instance, raise_on_error=False
        )
        (event,) = result.filter_events(lambda event: event.is_step_failure)
        self.messages = log_messages(result, self.instance)
        self.shown = event.step_failure_data.error_display_string
        return str(event.step_failure_data.user_failure_data.description)  # type: ignore[union-attr]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """One that nobody listens on, and that nobody else takes meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def away(port: int, **options: Any) -> ComputeResource:
    ssh = SSHConnectionResource(host="127.0.0.1", port=port)
    return ComputeResource(mode="slurm", slurm=SlurmResource(ssh=ssh, queue=SlurmQueueConfig()), **options)


@pytest.mark.parametrize(
    ("call", "line", "hint"),
    [
        ({"extra_slurm_opts": {"partitoin": "x"}}, "sbatch has no option 'partitoin'", "Nearest known: partition"),
        ({"extra_envs": {}}, "ComputeResource.run() has no argument 'extra_envs'", "Did you mean 'extra_env'?"),
        ({"extra_slurm_opts": {"mem": "4 gigs"}}, "'mem' is not a valid amount of memory: '4 gigs'", "Allowed: "),
        ({"slurm_metrics": ["slurm_job"]}, "There is no metric 'slurm_job'", "Nearest known: slurm_job_id"),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["local", "slurm"])
def test_an_error_of_the_request_is_tried_once_and_needs_no_cluster(
    instance: dg.DagsterInstance,
    payload: Write,
    closed_port: int,
    mode: str,
    call: dict[str, Any],
    line: str,
    hint: str,
) -> None:
    tried = Tried(instance, away(closed_port) if mode == "slurm" else ComputeResource(mode="local"))
    first, second, *_ = tried.run(payload("pass\n"), **call).splitlines()
    assert tried.bodies == 1
    assert first.startswith(line)
    assert second.startswith(hint)
    (cause,) = tried.causes
    assert isinstance(cause, DagsterSlurmError)
    assert cause.is_of_request
    # Dagster shows the frames between its own code and the asset's; of the cause there are none.
    assert tried.shown.splitlines()[0].endswith(f"Failure: {first}")
    assert "resources/call.py" not in tried.shown


def test_a_refused_port_is_told_at_once_and_given_up(
    instance: dg.DagsterInstance, payload: Write, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruptions, "_FIRST_CONTACT_SECONDS", 2.0)
    tried = Tried(instance, away(closed_port))
    first, second = tried.run(payload("pass\n"), retries=0).splitlines()
    assert first.startswith("The connection failed: ")
    assert "Connection refused" in first
    doctor = "`dagster-slurm doctor` checks the way to the cluster step by step."
    assert second == f"Check host, port and network. {doctor}"
    (told,) = [each for each in tried.messages if each.startswith("The cluster does not answer; ")]
    assert told.startswith("The cluster does not answer; it is tried for 2 s more. The connection failed: ")


def test_a_retry_waits_for_the_cluster_as_ever(
    instance: dg.DagsterInstance, payload: Write, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tried before may have been submitted; the bound of that is shortened here."""
    monkeypatch.setattr(interruptions, "_FIRST_CONTACT_SECONDS", 1.0)
    monkeypatch.setattr(interruptions, "_REATTACHING_SECONDS", 3.0)
    tried = Tried(instance, away(closed_port))
    tried.run(payload("pass\n"), retries=1)
    assert tried.bodies == 2
    told = [each for each in tried.messages if each.startswith("The cluster does not answer; ")]
    assert [each.partition(".")[0].rpartition("tried for ")[2] for each in told] == ["1 s more", "3 s more"]


def test_who_adopts_what_others_have_left_waits_as_ever(
    instance: dg.DagsterInstance, payload: Write, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruptions, "_REATTACHING_SECONDS", 2.0)
    tried = Tried(instance, away(closed_port, reattach="asset"))
    tried.run(payload("pass\n"), retries=0)
    (told,) = [each for each in tried.messages if each.startswith("The cluster does not answer; ")]
    assert "it is tried for 2 s more" in told


def test_a_key_that_is_not_there_is_told_before_anything_else(
    instance: dg.DagsterInstance, payload: Write, closed_port: int, tmp_path: Path
) -> None:
    ssh = SSHConnectionResource(host="127.0.0.1", port=closed_port, key_path=f"{tmp_path}/none")
    tried = Tried(instance, ComputeResource(mode="slurm", slurm=SlurmResource(ssh=ssh)))
    first, second = tried.run(payload("pass\n")).splitlines()
    assert first == f"There is no key file {tmp_path}/none on this machine [host 127.0.0.1:{closed_port}]"
    assert second.startswith("Correct key_path (KEY_PATH)")
    assert tried.bodies == 1


class TestWhoMayHaveBegun:
    """With a piece of work, by Dagster's records alone."""

    def seen(self, instance: dg.DagsterInstance, *, again: bool = False, **options: Any) -> list[bool]:
        found: list[bool] = []

        @dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
        def measured(context: dg.OpExecutionContext) -> None:
            step = Step.of(context)
            if again:
                # As a worker does that takes up the run of one that died.
                started = next(
                    entry
                    for entry in instance.all_logs(context.run_id, of_type=dg.DagsterEventType.STEP_START)
                    if entry.step_key == step.key
                )
                instance.handle_new_event(started)
            found.append(may_have_begun(step, piece_of_work(step, "call", "retry")))
            if options.get("fails") and len(found) == 1:
                raise ValueError("once")

        @dg.job
        def work() -> None:
            measured()

        work.execute_in_process(instance=instance)
        return found

    def test_nobody_with_a_first_start(self, instance: dg.DagsterInstance) -> None:
        assert self.seen(instance) == [False]

    def test_this_step_before_its_retry(self, instance: dg.DagsterInstance) -> None:
        assert self.seen(instance, fails=True) == [False, True]

    def test_a_process_whose_start_is_on_record(self, instance: dg.DagsterInstance) -> None:
        assert self.seen(instance, again=True) == [True]

    def test_nobody_outside_of_a_run(self) -> None:
        @dg.op
        def measured(context: dg.OpExecutionContext) -> bool:
            step = Step.of(context)
            return may_have_begun(step, piece_of_work(step, "call", "retry"))

        assert measured(dg.build_op_context()) is False

    @pytest.mark.parametrize("origins", [{"origin": "before"}, {"others": True}], ids=str)
    def test_a_run_that_this_one_goes_on_with(self, instance: dg.DagsterInstance, origins: dict[str, Any]) -> None:
        found: list[bool] = []

        @dg.op
        def measured(context: dg.OpExecutionContext) -> None:
            step = Step.of(context)
            work = piece_of_work(step, "call", "retry")
            before = replace(work.key, origin_run_id="before")
            changed = replace(work, others=(before,)) if "others" in origins else replace(work, key=before)
            found.append(may_have_begun(step, changed))

        @dg.job
        def work() -> None:
            measured()

        work.execute_in_process(instance=instance)
        assert found == [True]


def test_an_exception_of_the_payload(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload("rows = {}\nrows['price']\n")
    tried = Tried(instance, compute)
    first, *_, last = tried.run(path, retries=0).splitlines()
    assert re.fullmatch(r"KeyError: 'price' \(exit code 1, (Slurm job \d+ )?on \S+\)", first)
    assert last.startswith("State FAILED, exit code 1, node ")
    (cause,) = tried.causes
    assert isinstance(cause, PayloadFailedError)
    assert first == cause.first_line


def test_the_last_line_of_a_payload_that_is_no_python(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload("echo a warning >&2\necho no such column: price >&2\nexit 3\n", name="payload.sh")
    first, *_ = Tried(instance, compute).run(path, retries=0).splitlines()
    assert re.fullmatch(r"Exit code 3, (Slurm job \d+ )?on \S+: no such column: price", first)


def test_a_module_that_is_missing(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload("import nothing_of_that_name.inner\n")
    first, second, *_ = Tried(instance, compute).run(path, retries=0).splitlines()
    assert first.startswith("ModuleNotFoundError: No module named 'nothing_of_that_name' (exit code 1, ")
    assert re.search(r"`\S*/bin/python\S* -m pip install nothing-of-that-name`( on the cluster)? adds it\.$", second)
    assert second.startswith("It ran in the environment ")


def test_a_module_that_lies_beside_the_payload_was_forgotten(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    payload("ROWS = 3\n", name="prices.py")
    path = payload("import prices\n")
    first, second, *_ = Tried(instance, compute).run(path, retries=0).splitlines()
    assert first.startswith("ModuleNotFoundError: No module named 'prices' (exit code 1, ")
    assert second == "prices.py lies beside the payload on this machine, and is not sent: name it in `extra_files`."


@pytest.mark.parametrize(
    ("metadata", "meant"),
    [
        ({"slurm_enviroment_name": "gpu"}, "slurm_environment_name"),
        ({"Slurm": {"partition": "gpu"}}, "slurm"),
        ({"slurm-inputs": ["a"]}, "slurm_inputs"),
        ({"slurm_pre_deployed_env": "/envs/a"}, "slurm_pre_deployed_env_path"),
        ({"owner": "me", "slurm_notes": "none", "slurm_job_id": "12", "slurm_scratch": False}, ""),
    ],
    ids=str,
)
def test_metadata_that_is_nearly_ours_is_told(
    instance: dg.DagsterInstance, payload: Write, metadata: dict[str, Any], meant: str
) -> None:
    path = payload("pass\n")

    @dg.asset(metadata=metadata)
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run(context, path).get_materialize_result()

    result = dg.materialize([measured], resources={"compute": ComputeResource(mode="local")}, instance=instance)
    told = [each for each in log_messages(result, instance) if "is not known, and has no effect" in each]
    name = next(iter(metadata))
    expected = f"The asset metadata {name!r} is not known, and has no effect: is {meant!r} meant?"
    assert told == ([expected] if meant else [])
