"""A step's one request, held up on the login node: a slow sbatch, and a termination while it is on its way."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, threaded_executor
from dagster_slurm.cluster import claims
from dagster_slurm.sandbox import Sandbox

from ..faults.login import login_node_with
from ..support.instances import empty_instance
from ..support.waiting import eventually
from .test_threaded import run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

# As a job_submit plugin that lets a user wait.
SLOW_SBATCH = """#!/bin/sh
case $* in
*--parsable*slow*)
    echo 'sbatch: one job a minute here; wait' >&2
    until [ -e "$HOME/{name}.go" ]; do sleep 0.1; done
    ;;
esac
exec /usr/bin/sbatch "$@"
"""
HELD_TAR = """#!/bin/sh
touch "$HOME/{name}.begun"
until [ -e "$HOME/{name}.go" ]; do sleep 0.1; done
/usr/bin/tar "$@"
status=$?
touch "$HOME/{name}.done"
exit "$status"
"""


class Login:
    """A login node with a program of its own, and the assets of a run over it."""

    def __init__(self, sandbox: Sandbox, directory: Path, name: str) -> None:
        self.sandbox, self.directory, self.name = sandbox, directory, name

    def job(self, *assets: str) -> dg.JobDefinition:
        payload = self.directory / "payload.sh"
        payload.write_text("true\n")

        def made(name: str) -> dg.AssetsDefinition:
            @dg.asset(name=name)
            def one(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
                return compute.run(context, payload).get_materialize_result()

            return one

        queue = SlurmQueueConfig(partition="compute", mem="20M", cpus=1, time_limit="00:05:00")
        base = SlurmResource.from_env()
        slurm = SlurmResource(ssh=base.ssh, queue=queue, remote_base=f"~/runs/{self.name}")
        return dg.Definitions(
            assets=[made(name) for name in assets],
            resources={"compute": ComputeResource(mode="slurm", slurm=slurm)},
            executor=threaded_executor,
        ).resolve_implicit_global_asset_job_def()

    def mark(self, what: str) -> Path:
        return Path(self.sandbox.home, f"{self.name}.{what}")

    def go(self) -> None:
        assert self.sandbox.run(["touch", str(self.mark("go"))]).returncode == 0


@contextmanager
def login(
    sandbox: Sandbox, directory: Path, monkeypatch: pytest.MonkeyPatch, programs: Mapping[str, str]
) -> Iterator[Login]:
    name = f"held-{os.getpid()}-{time.monotonic_ns()}"
    own = {program: text.replace("{name}", name) for program, text in programs.items()}
    with login_node_with(sandbox, directory / "login", programs=own) as node:
        for variable, value in {**node.env(), "DAGSTER_SLURM_SSH_CONTROL_DIR": f"/tmp/ssh-{name}"}.items():
            monkeypatch.setenv(variable, value)
        yield Login(sandbox, directory, name)


@contextmanager
def beside(what: threading.Thread) -> Iterator[None]:
    what.start()
    try:
        yield
    finally:
        what.join()


def test_a_slow_sbatch_is_told_of_and_holds_nobody_up(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_ASKED_SECONDS", 1)
    with login(sandbox, tmp_path, monkeypatch, {"sbatch": SLOW_SBATCH}) as site, empty_instance() as instance:

        def has_ended() -> bool:
            success = dg.DagsterEventType.STEP_SUCCESS
            runs = instance.get_runs()
            return any(each.step_key == "quick" for one in runs for each in instance.all_logs(one.run_id, success))

        def is_said() -> bool:
            logs = [each for one in instance.get_runs() for each in instance.all_logs(one.run_id)]
            return any("has not ended after" in each.message for each in logs)

        def let_go() -> None:
            try:
                eventually(has_ended, "the end of the other step")
                eventually(is_said, "a word of the slow sbatch")
            finally:
                site.go()

        with beside(threading.Thread(target=let_go)):
            result = run(site.job("slow", "quick"), instance)
        assert result.success
        said = [each.user_message for each in instance.all_logs(result.run_id) if "has not ended after" in each.message]
    assert len(said) == 1
    assert said[0].endswith("has not ended after 1 s; it has printed 'sbatch: one job a minute here; wait'")


def test_a_run_that_is_terminated_while_its_request_is_on_its_way_gets_no_job(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with login(sandbox, tmp_path, monkeypatch, {"tar": HELD_TAR}) as site, empty_instance() as instance:

        def terminate() -> None:
            eventually(site.mark("begun").exists, "the request")
            (record,) = instance.get_run_records()
            instance.report_run_canceling(record.dagster_run)

        submitted = sandbox.rpc_counts().get("REQUEST_SUBMIT_BATCH_JOB", 0)
        with beside(threading.Thread(target=terminate)):
            result = run(site.job("held"), instance)
        assert not result.success
        site.go()
        eventually(site.mark("done").exists, "the request that goes on")
        attempts = Path(sandbox.home, "runs", site.name, "runs", result.run_id)
        eventually(lambda: not list(attempts.glob("*/*.part.*")), "its end")
        (attempt,) = attempts.glob("*/0")
        assert (attempt / "claim" / "0").readlink() == Path("closed")
        assert sorted(path.name for path in attempt.iterdir()) == ["claim", "protocol"]
        assert sandbox.rpc_counts().get("REQUEST_SUBMIT_BATCH_JOB", 0) == submitted
