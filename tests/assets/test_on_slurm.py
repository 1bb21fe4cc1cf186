"""What only a cluster shows: jobs, their figures, their errors, what is left of them."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import (
    ComputeResource,
    SlurmMetric,
    SlurmMetricsContext,
    SlurmQueueConfig,
    SlurmResource,
)
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.slurm import commands
from dagster_slurm.slurm.efficiency import job_metrics
from dagster_slurm.slurm.output import AccountingRecord, parse_sacct
from dagster_slurm.transport.shell import verb
from tests.support import forked
from tests.support.environments import copied_environment
from tests.support.slurm_jobs import submitted_jobs
from tests.support.waiting import eventually

from .conftest import (
    QUEUE,
    asset_of,
    compute_log,
    echo_back,
    failure_of,
    log_messages,
    metadata_of,
    run_asset,
)

pytestmark = pytest.mark.cluster

Write = Callable[..., Path]
Make = Callable[..., ComputeResource]
Files = Callable[[], list[str]]


def sacct(sandbox: Sandbox, job_id: str, *fields: str) -> list[str]:
    """Fields of a job's allocation line."""
    argv = ["sacct", "-X", "-n", "-P", f"--jobs={job_id}", f"--format={','.join(fields)}"]
    return sandbox.run(argv).stdout.strip().split("|")


def last_job_id(sandbox: Sandbox) -> int:
    """The highest job id Slurm has given so far."""
    shown = sandbox.run(["scontrol", "show", "config"]).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("NEXT_JOB_ID")]
    return int(line.split("=")[1])


# For more than the second that is looked for: processes are counted in hundredths, and a percentage is rounded.
BUSY = """
import time
block = bytearray(50 << 20)
while time.process_time() < 1.05:
    pass
time.sleep(0.5)
"""


def accounted(sandbox: Sandbox, job_id: str) -> AccountingRecord:
    """What sacct has of a job when it knows its end."""
    records: dict[str, AccountingRecord] = {}

    def is_known() -> bool:
        records.update(parse_sacct(sandbox.run(list(commands.sacct([job_id]))).stdout))
        return job_id in records and records[job_id].state.is_terminal

    eventually(is_known, lambda: f"the end of job {job_id}: {records}")
    return records[job_id]


def test_metadata_of_a_job(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    """Nobody asks sacct, and it would say the same."""
    got = metadata_of(run_asset(asset_of(payload(BUSY)), slurm(queue={"cpus": 2, "mem": "200M"}), instance))
    record = accounted(sandbox, str(got["slurm_job_id"]))
    told = job_metrics(record)
    # Nobody has asked for GPUs.
    assert told.keys() - got.keys() <= {"slurm_requested_gpus", "slurm_allocated_gpus"}
    # Slurm samples memory, and has no sample of a short job.
    of_samples = {"max_cpus_used", "slurm_usage_plot"}
    assert got.keys() - told.keys() <= {"max_memory_mb", "memory_efficiency_pct", *of_samples}
    exact = ("slurm_job_id", "slurm_state", "slurm_exit_code")
    assert [got[name] for name in exact] == [int(str(told["slurm_job_id"])), *(told[name] for name in exact[1:])]
    assert (got["slurm_state"], got["slurm_exit_code"]) == ("COMPLETED", 0)
    # Slurm's times are whole seconds, and it begins before the batch script, and ends after it.
    assert (record.cpus, record.node_count) == (2, 1)
    assert record.elapsed_seconds is not None and record.elapsed_seconds >= 1
    assert got["elapsed_seconds"] == pytest.approx(told["elapsed_seconds"], abs=2.5)
    assert got["queue_wait_seconds"] == pytest.approx(told["queue_wait_seconds"], abs=2.5)
    assert got["node_hours"] == pytest.approx(got["elapsed_seconds"] / 3600, abs=1e-6)
    used = got["cpu_efficiency_pct"] * got["elapsed_seconds"] * 2 / 100
    assert used >= 1
    assert used == pytest.approx(record.total_cpu_seconds, abs=0.5)
    assert 50 <= got["max_memory_mb"] <= 90
    assert got["memory_efficiency_pct"] == pytest.approx(got["max_memory_mb"] / 2, abs=0.1)


def test_files_that_were_read_and_written_are_no_memory_of_the_job(
    slurm: Make, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload(
        # Of one that ends before anybody looks, and moves much, nothing is said.
        "import pathlib, shutil, time\n"
        "time.sleep(1)\n"
        "file = pathlib.Path('large')\n"
        "file.write_bytes(b'')\n"
        "for _ in range(150):\n"
        "    with file.open('ab') as opened:\n"
        "        opened.write(bytes(1 << 20))\n"
        "shutil.copyfile('large', '/dev/null')\n"
    )
    got = metadata_of(run_asset(asset_of(path), slurm(queue={"mem": "400M"}), instance))
    assert got["max_memory_mb"] < 60


def test_a_child_that_was_killed_for_want_of_memory_fails_a_payload_that_overlooks_it(
    slurm: Make, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'b = b\"x\" * (400 << 20)'])\n")
    text = failure_of(run_asset(asset_of(path), slurm(queue={"mem": "100M"}), instance))[1]
    assert "State OUT_OF_MEMORY, exit code 0" in text


def test_chosen_metrics_and_a_collector(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write
) -> None:
    login = sandbox.run(["id", "-un"]).stdout.strip()

    def collector(job: SlurmMetricsContext) -> dict[str, int]:
        assert job.ended.record is not None
        assert job.default_metrics["slurm_state"] == "COMPLETED"
        assert job.slurm_resource is not None
        assert job.ssh_pool.run(f"squeue -h -o %i -j {job.job_id}; echo of $(id -un)").endswith(f"of {login}\n")
        return {"doubled": 2 * int(job.job_id)}

    asset = asset_of(payload("pass\n"), slurm_metrics=[SlurmMetric.STATE, "slurm_job_id"], metrics_collector=collector)
    got = metadata_of(run_asset(asset, slurm(), instance))
    assert set(got) == {"slurm_state", "slurm_job_id", "slurm_accounting_available", "doubled"}
    assert got["doubled"] == 2 * got["slurm_job_id"]


def test_a_figure_that_only_accounting_has_is_waited_for(
    slurm: Make, instance: dg.DagsterInstance, payload: Write
) -> None:
    asset = asset_of(payload("pass\n"), slurm_metrics=[SlurmMetric.ACCOUNTING_AVAILABLE])
    got = metadata_of(run_asset(asset, slurm(), instance))
    assert (set(got), got["slurm_accounting_available"]) == ({"slurm_job_id", "slurm_accounting_available"}, True)


def test_options_by_precedence(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload(echo_back(cpus="os.environ['SLURM_CPUS_PER_TASK']"))
    got: list[Any] = []

    @dg.asset(metadata={"slurm": {"cpus": 3, "time_limit": "00:04:00", "comment": "of the asset's; #metadata"}})
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        completed = compute.run(context, path, extra_slurm_opts={"cpus_per_task": 4, "nodelist": "n2"})
        got.extend(completed.get_custom_messages())
        return completed.get_materialize_result()

    result = run_asset(measured, slurm(queue={"cpus": 2, "time_limit": "00:03:00"}), instance)
    assert got == [{"cpus": "4"}]
    job_id = str(metadata_of(result)["slurm_job_id"])
    # sacct learns the time limit of a short job some seconds after its end.
    shown = sandbox.run(["scontrol", "show", "job", job_id]).stdout
    assert "TimeLimit=00:04:00" in shown
    assert "NodeList=n2\n" in shown
    assert "Comment=of the asset's; #metadata" in shown


def test_output_is_seen_while_the_job_runs(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write
) -> None:
    """The payload goes on only after its first line was read from the step's compute log."""
    seen = sandbox.home / f"seen-{time.time_ns()}"
    path = payload(
        "import pathlib, sys, time\n"
        "print('first')\n"
        "begun = time.monotonic()\n"
        f"while not pathlib.Path({str(seen)!r}).exists():\n"
        "    if time.monotonic() - begun > 30: sys.exit('nobody saw it')\n"
        "    time.sleep(0.05)\n"
        "print('second')\n"
    )
    logs = Path(instance.compute_log_manager.get_captured_local_path(["x"], "out")).parent  # type: ignore[attr-defined]

    def answer() -> None:
        eventually(lambda: any(b"first\n" in file.read_bytes() for file in logs.rglob("*.out")))
        seen.touch()

    thread = threading.Thread(target=answer)
    thread.start()
    result = run_asset(asset_of(path), slurm(), instance)
    thread.join()
    seen.unlink()
    assert result.success
    assert compute_log(result, instance) == "first\nsecond\n"


def test_one_login_and_few_channels(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload("import time\nfor _ in range(25):\n    print('tick'); time.sleep(0.1)\n")
    logins, channels = sandbox.logins(), sandbox.sessions_opened()
    assert run_asset(asset_of(path), slurm(), instance).success
    assert sandbox.logins() - logins <= 1
    assert sandbox.sessions_opened() - channels <= 15


def test_a_run_costs_the_controller_few_questions(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write
) -> None:
    """One test-only submission, one submission, and a handful of squeue calls around the end."""
    path = payload("import time\ntime.sleep(8)\n")
    before = sandbox.rpc_counts(sandbox.user)["total"]
    assert run_asset(asset_of(path), slurm(), instance).success
    assert sandbox.rpc_counts(sandbox.user)["total"] - before <= 12


def test_run_directory_is_private_and_removed(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, remote_files: Files, tmp_path: Path
) -> None:
    modes = "{str(p): oct(p.stat().st_mode & 0o777) for p in (root, root / 'env.sh', root / 'job.sh')}"
    path = payload("import pathlib\nroot = pathlib.Path.cwd().parent\n" + echo_back(modes=modes))
    got: list[Any] = []

    @dg.asset
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        completed = compute.run(context, path, extra_env={"PLANTED": "a secret"})
        got.extend(completed.get_custom_messages())
        return completed.get_materialize_result()

    result = run_asset(measured, slurm(), instance)
    assert result.success
    assert sorted(got[0]["modes"].values()) == ["0o600", "0o700", "0o700"]
    eventually(lambda: remote_files() == [])
    runs = sandbox.run(["sh", "-c", f"ls ~/test-runs/{tmp_path.name}/runs"])
    assert runs.stdout == ""


def test_debug_mode_keeps_everything(
    slurm: Make, instance: dg.DagsterInstance, payload: Write, remote_files: Files
) -> None:
    result = run_asset(asset_of(payload("print('kept')\n")), slurm(debug_mode=True), instance)
    assert result.success
    kept = {name.split("/", 5)[-1] for name in remote_files()}
    assert {"env.sh", "job.sh", "work/payload.py", "log/stdout.0", "log/status", "claim/0/gate"} <= kept


def test_failure_keeps_what_explains_it(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, remote_files: Files
) -> None:
    path = payload("import sys\nprint('reason', file=sys.stderr)\nsys.exit(7)\n")
    result = run_asset(asset_of(path, extra_env={"PLANTED": "a secret"}), slurm(), instance)
    kind, text = failure_of(result)
    assert kind == "PayloadFailedError"
    directory = text.strip().rsplit(" ", 1)[-1]
    assert "State FAILED, exit code 7, node n" in text
    assert sandbox.run(["cat", f"{directory}/log/stderr.0"]).stdout == "reason\n"
    kept = {name.split("/", 5)[-1] for name in remote_files()}
    assert {"job.sh", "log/status", "log/stderr.0"} <= kept
    assert not {"env.sh", "work/payload.py", "pipes/context.json"} & kept
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    figures = event.step_failure_data.user_failure_data.metadata
    assert figures["slurm_exit_code"].value == 7
    assert figures["slurm_state"].value == "FAILED"


def test_failure_without_clean_up(
    slurm: Make, instance: dg.DagsterInstance, payload: Write, remote_files: Files
) -> None:
    result = run_asset(asset_of(payload("raise SystemExit(1)\n")), slurm(cleanup_on_failure=False), instance)
    assert not result.success
    assert {"env.sh", "work/payload.py"} <= {name.split("/", 5)[-1] for name in remote_files()}


def test_out_of_memory(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    if not sandbox.status().memory_enforced:
        pytest.fail(f"the sandbox enforces no memory limit here: {sandbox.status().memory_reason}")
    path = payload("block = b'x' * (400 << 20)\n")
    text = failure_of(run_asset(asset_of(path), slurm(queue={"mem": "100M"}), instance))[1]
    assert "State OUT_OF_MEMORY" in text
    assert "oom-kill" in text or "oom_kill" in text  # From 24.11 on.


BAD_REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, list[str]]] = {
    "partition": ({"partition": "nope"}, {}, "SubmissionRejectedError", ["'nope'", "compute, debug"]),
    "account": ({"account": "nope"}, {}, "SubmissionRejectedError", ["'nope'", "research"]),
    "qos": ({"qos": "nope"}, {}, "SubmissionRejectedError", ["'nope'", "normal"]),
    "typo": ({}, {"extra_slurm_opts": {"partiton": "compute"}}, "UnknownOptionError", ["'partiton'", "partition"]),
    "memory": ({"mem": "4 gigs"}, {}, "InvalidQuantityError", ["'4 gigs'", "MiB"]),
    "too much": ({"mem": "900G"}, {}, "SubmissionRejectedError", ["not available"]),
    "managed": ({}, {"extra_slurm_opts": {"output": "x"}}, "InvalidRequestError", ["output"]),
    "files": ({}, {"extra_files": ["/no/such/file"]}, "PayloadNotFoundError", ["/no/such/file"]),
    "variable": ({}, {"extra_env": {"1A": "x"}}, "InvalidRequestError", ["'1A'"]),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_request_at_fault_uploads_and_submits_nothing(
    slurm: Make,
    sandbox: Sandbox,
    instance: dg.DagsterInstance,
    payload: Write,
    remote_files: Files,
    case: str,
) -> None:
    queue, call, kind, named = BAD_REQUESTS[case]
    # While a node is away, or the controller has just started, what no node is large enough for may wait for one.
    away = verb("nodes_away", "dagster_slurm.cluster_scripts")
    eventually(lambda: not sandbox.run(["sh", "-c", away]).stdout, "all nodes")
    before = submitted_jobs(sandbox)
    result = run_asset(asset_of(payload("pass\n"), **call), slurm(queue=queue), instance)
    assert not result.success
    got, text = failure_of(result)
    assert got == kind
    for word in named:
        assert word in text
    assert remote_files() == []
    assert submitted_jobs(sandbox) == before


def test_missing_payload_uploads_and_submits_nothing(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, tmp_path: Path, remote_files: Files
) -> None:
    before = submitted_jobs(sandbox)
    result = run_asset(asset_of(tmp_path / "absent.py"), slurm(), instance)
    assert failure_of(result)[0] == "PayloadNotFoundError"
    assert remote_files() == []
    assert submitted_jobs(sandbox) == before


@pytest.mark.parametrize(("path", "problem"), [("/no/such/env", "does not exist"), ("/etc", "is not an environment")])
def test_missing_environment(
    slurm: Make,
    sandbox: Sandbox,
    instance: dg.DagsterInstance,
    payload: Write,
    remote_files: Files,
    path: str,
    problem: str,
) -> None:
    before = submitted_jobs(sandbox)
    result = run_asset(asset_of(payload("pass\n")), slurm(pre_deployed_env_path=path), instance)
    kind, text = failure_of(result)
    assert kind == "EnvironmentNotFoundError"
    assert f"{path} {problem}" in text
    assert "`bin/python`" in text
    assert remote_files() == []
    assert submitted_jobs(sandbox) == before


def test_full_disk(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    before = submitted_jobs(sandbox)
    with sandbox.small_filesystem(1) as directory:
        sandbox.run(["sh", "-c", f"head -c 2000000 /dev/zero > {directory}/fill"])
        result = run_asset(asset_of(payload("pass\n")), slurm(remote_base=f"{directory}/base"), instance)
        kind, text = failure_of(result)
    assert kind == "RemoteStorageError"
    assert f"{directory}/base" in text
    assert "No space left on device" in text
    assert submitted_jobs(sandbox) == before


def test_payload_that_does_not_fit(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    before = submitted_jobs(sandbox)
    with sandbox.small_filesystem(1) as directory:
        path = payload("#" * 3_000_000)
        result = run_asset(asset_of(path), slurm(remote_base=f"{directory}/base"), instance)
        left = sandbox.run(["find", str(directory), "-type", "f"]).stdout
    assert failure_of(result)[0] == "RemoteStorageError"
    assert left == ""
    assert submitted_jobs(sandbox) == before


def test_unwritable_directory(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    before = submitted_jobs(sandbox)
    with sandbox.unwritable_directory() as directory:
        result = run_asset(asset_of(payload("pass\n")), slurm(remote_base=f"{directory}/base"), instance)
    kind, text = failure_of(result)
    assert kind == "RemoteStorageError"
    assert "Permission denied" in text
    assert str(directory) in text
    assert submitted_jobs(sandbox) == before


def test_clusters_own_python(slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload("import sys\nprint(sys.prefix)\n")
    result = run_asset(asset_of(path), slurm(pre_deployed_env_path=None), instance)
    assert compute_log(result, instance) == "/usr\n"
    assert any("the cluster's own python3" in message for message in log_messages(result, instance))


def test_packed_environment(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    """The layout that pixi-pack unpacks to: `activate.sh` beside `env/`."""
    root = f"{sandbox.home}/packed env"
    sandbox.run(["mkdir", "-p", f"{root}/env/bin"])
    sandbox.run(["ln", "-sf", "/usr/bin/python3", f"{root}/env/bin/python"])
    sandbox.run(["tee", f"{root}/activate.sh"], input="export FROM_ACTIVATE=yes\n")
    path = payload("import os, sys\nprint(os.environ['FROM_ACTIVATE'], sys.executable)\n")
    result = run_asset(asset_of(path), slurm(pre_deployed_env_path=root), instance)
    assert compute_log(result, instance) == f"yes {root}/env/bin/python\n"


def test_payload_on_the_cluster_already(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, remote_files: Files
) -> None:
    remote = f"{sandbox.home}/deployed.py"
    sandbox.run(["tee", remote], input="print('deployed')\n")
    result = run_asset(
        asset_of(payload("print('local')\n"), remote_payload_path=remote), slurm(debug_mode=True), instance
    )
    assert compute_log(result, instance) == "deployed\n"
    assert not [name for name in remote_files() if "/work/" in name]


def test_several_clusters_in_one_run(
    slurm: Make,
    sandbox: Sandbox,
    instance: dg.DagsterInstance,
    payload: Write,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """One over SSH as the cluster's user, one with Slurm's commands on this machine."""
    for name, value in sandbox.slurm_env().items():
        monkeypatch.setenv(name, value)
    path = payload(echo_back(user="os.getuid()"))
    local_base = f"{sandbox.home}/on-the-login-node-{tmp_path.name}"
    on_login_node = ComputeResource(
        mode="slurm",
        slurm=SlurmResource(queue=SlurmQueueConfig(**QUEUE), remote_base=local_base),
        pre_deployed_env_path=copied_environment(sandbox, "tests", ["dagster-pipes"]),
    )

    users: dict[str, int] = {}

    @dg.asset
    def over_ssh(context: dg.AssetExecutionContext, first: ComputeResource) -> dg.MaterializeResult:
        completed = first.run(context, path)
        users["over_ssh"] = completed.get_custom_messages()[0]["user"]
        return completed.get_materialize_result()

    @dg.asset
    def on_this_machine(context: dg.AssetExecutionContext, second: ComputeResource) -> dg.MaterializeResult:
        completed = second.run(context, path)
        users["on_this_machine"] = completed.get_custom_messages()[0]["user"]
        return completed.get_materialize_result()

    resources = {"first": slurm(), "second": on_login_node}
    assert dg.materialize([over_ssh, on_this_machine], resources=resources, instance=instance).success
    assert users["over_ssh"] != os.getuid()
    assert users["on_this_machine"] == os.getuid()


def test_gives_up_on_a_long_queue(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    asset = asset_of(payload("print('ran')\n"), extra_slurm_opts={"hold": True, "max_queue_hours": 1 / 3600})
    result = run_asset(asset, slurm(), instance)
    assert "State CANCELLED" in failure_of(result)[1]
    assert any("max_queue_hours" in message for message in log_messages(result, instance))
    assert compute_log(result, instance) == ""


MULTIPROCESS = """
import dagster as dg
from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource

PAYLOAD = {payload!r}

def make(number):
    @dg.asset(name=f"asset_{{number}}")
    def run(context: dg.AssetExecutionContext, compute: ComputeResource):
        return compute.run(context, PAYLOAD).get_materialize_result()
    return run

compute = ComputeResource(
    mode="slurm",
    slurm=SlurmResource(
        ssh=SSHConnectionResource.from_env(),
        queue=SlurmQueueConfig(partition="compute", mem="100M", cpus=1),
        remote_base={base!r},
    ),
    pre_deployed_env_path={environment!r},
)
defs = dg.Definitions(
    assets=[make(number) for number in range({count})],
    resources={{"compute": compute}},
    jobs=[dg.define_asset_job("everything")],
    executor=dg.multiprocess_executor.configured({{"max_concurrent": {count}}}),
)
"""


@pytest.mark.all_faults
def test_more_processes_than_channels(sandbox: Sandbox, payload: Write, environment_path: str, tmp_path: Path) -> None:
    """Twelve step processes at once over one connection of a server with MaxSessions 10: none is turned away."""
    path = payload("import time\nfor _ in range(30):\n    print('tick'); time.sleep(0.1)\n")
    definitions = tmp_path / "definitions.py"
    definitions.write_text(
        MULTIPROCESS.format(
            payload=str(path), base=f"~/test-runs/{tmp_path.name}", environment=environment_path, count=12
        )
    )
    (tmp_path / "home").mkdir()
    logins = sandbox.logins()
    argv = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(definitions), "-j", "everything"]
    variables = {**os.environ, **sandbox.env(), "DAGSTER_HOME": str(tmp_path / "home")}
    done = forked.run(argv, env=variables, timeout=240, children=True)
    assert done.returncode == 0, done.stderr[-4000:]
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        (run,) = instance.get_runs()
        steps = instance.get_run_step_stats(run.run_id)
    assert [step.status.value for step in steps if step.status] == ["SUCCESS"] * 12
    assert sandbox.logins() - logins <= 1
    logs = [file.read_text() for file in (tmp_path / "home").rglob("*.out")]
    assert [text for text in logs if text] == ["tick\n" * 30] * 12


def test_what_is_another_since_is_in_the_log(
    slurm: Make, instance: dg.DagsterInstance, payload: Write, tmp_path: Path
) -> None:
    beside = tmp_path / "beside.csv"

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        tries = context.retry_number
        beside.write_text(f"{tries}\n")
        call: dict[str, Any] = {"extras": {"tries": tries}, "extra_env": {"TRIES": str(tries)}}
        completed = compute.run(context, path, extra_files=[beside], **call)
        if tries == 0:
            raise RuntimeError("behind the job")
        return completed.get_materialize_result()

    path = payload("print('once')\n")
    result = run_asset(measured, slurm(), instance)
    assert result.success
    what = ("one of `extra_files`", "`extras`", "`extra_env`")
    logged = log_messages(result, instance)
    (job_id,) = {match[1] for match in (re.match(r"Collecting Slurm job (\d+)", each) for each in logged) if match}
    assert [f"Slurm job {job_id} was submitted when {each} was another" for each in what] == [
        each for each in logged if "was submitted when" in each
    ]
