"""The payload as a process of this machine: no Slurm, no SSH, the same layout and the same messages."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dagster import Failure, OpExecutionContext, PipesClient

from dagster_slurm.environments import Activation
from dagster_slurm.errors import OutputNotFoundError, PayloadFailedError
from dagster_slurm.job.batch_script import env_file
from dagster_slurm.launchers import LaunchPlan, Payload, as_payload, direct_plan, launch_function, work_files
from dagster_slurm.launchers.payload import ExtraFiles, PathLike
from dagster_slurm.pipes.dagster_private import StepContext, dagster_run, op_context
from dagster_slurm.pipes.data import SlurmCompletedInvocation, outputs_directory, result_name, results_directory
from dagster_slurm.pipes.failure import failure, failure_without_output
from dagster_slurm.pipes.session import PayloadSession, payload_session
from dagster_slurm.staging import DataOptions, Staging, on_this_machine, plan_staging
from dagster_slurm.staging.collect import Collected

Planner = Callable[[Payload, Activation], LaunchPlan]

_POLL_SECONDS = 0.05
_BLOCK_BYTES = 1 << 16
_TERMINATION_SECONDS = 10.0


class LocalPipesClient(PipesClient):
    """Runs a payload on this machine, in a fresh directory that holds it and its extra files.

    Its output is in the step's compute logs while it runs, as it is on a cluster.

    Args:
        python: The interpreter for Python payloads; by default the one that runs Dagster.
        keep_directories: Leave the directories for inspection.
    """

    def __init__(self, *, python: str | None = None, keep_directories: bool = False) -> None:
        self._python = python or sys.executable
        self._keep = keep_directories

    def run(  # type: ignore[override]
        self,
        *,
        context: StepContext,
        payload: Payload | PathLike,
        extras: Mapping[str, Any] | None = None,
        plan: Planner = direct_plan,
        extra_env: Mapping[str, str] | None = None,
        extra_files: ExtraFiles | None = None,
        data: DataOptions | None = None,
    ) -> SlurmCompletedInvocation:
        """Run the payload and wait for its end.

        Args:
            context: The context of the asset, asset check or op.
            payload: The payload, or what `payload_from_path` makes one of.
            extras: Values for the payload, found in its Pipes context.
            plan: How to start it; a launcher's `plan`.
            extra_env: Environment variables of the payload.
            extra_files: Files and directories to put beside it.
            data: What the payload reads and leaves, besides its messages.

        Raises:
            Failure: It ended with another exit code than 0; the cause is a `PayloadFailedError`. Or it has not left one
                of its outputs; the cause is an `OutputNotFoundError`.
        """
        step = op_context(context)
        payload = as_payload(payload)
        files = work_files(payload, extra_files)
        staging = plan_staging(data or DataOptions(), uploaded=[entry.name for entry in files])
        with self._directory() as directory:
            for entry in files:
                _copy(entry.source, directory / "work" / entry.name, entry.mode)
            on_this_machine.place(staging.inputs, directory / "work")
            paths = {"context_path": str(directory / "context.json"), "messages_path": str(directory / "messages")}
            with payload_session(step, extras, **paths) as session:
                (directory / "context.json").write_bytes(session.context_data)
                (directory / "messages").touch()
                _write_private(directory / "env.sh", env_file(session.variables(extra_env)))
                launch = launch_function(
                    plan(payload, Activation((), self._python, "this machine")),
                    work_directory=str(directory / "work"),
                    env_file=str(directory / "env.sh"),
                    scratch=staging.scratch,
                )
                step.log.info(f"Running {payload.program} on this machine in {directory}")
                start = "launch_in_scratch" if staging.scratch else "launch"
                exit_code = _follow(f"{launch}\n{start}", directory / "messages", session)
                session.reader.finish()
            collected = Collected() if exit_code else self._collect(step, staging, directory / "work")
        if exit_code:
            raise self._failure(exit_code, session.logs.stderr_tail(), directory)
        return SlurmCompletedInvocation(session.pipes, collected)

    def _collect(self, step: OpExecutionContext, staging: Staging, work: Path) -> Collected:
        if not staging.outputs.patterns:
            return Collected()
        run = dagster_run(step)
        result = results_directory(step) / result_name(run.run_id if run else "direct", "0")
        outputs_dir = outputs_directory(step) if staging.outputs.needs_default else Path()
        try:
            return on_this_machine.collect(staging, work, outputs_dir=outputs_dir, result=result, is_kept=self._keep)
        except OutputNotFoundError as error:
            raise failure_without_output(error) from error

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        if self._keep:
            yield Path(tempfile.mkdtemp(prefix="dagster-slurm-"))
            return
        with tempfile.TemporaryDirectory(prefix="dagster-slurm-") as path:
            yield Path(path)

    def _failure(self, exit_code: int, stderr_tail: str, directory: Path) -> Failure:
        said = f"\nLast lines of stderr:\n{stderr_tail}" if stderr_tail else "\nIt wrote nothing to stderr."
        kept = str(directory) if self._keep else "nothing was kept (debug_mode=True keeps the directory)"
        signal_number = -exit_code if exit_code < 0 else 0
        outcome = f"signal {signal_number}" if signal_number else f"exit code {exit_code}"
        error = PayloadFailedError(
            f"The payload did not succeed.{said}\nState FAILED, {outcome}, node {os.uname().nodename}; {kept}",
            state="FAILED",
            exit_code=None if signal_number else exit_code,
            signal=signal_number,
            node=os.uname().nodename,
            stderr_tail=stderr_tail,
        )
        return failure(error, {"exit_code": exit_code})


def _copy(source: bytes | Path, destination: Path, mode: int) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    destination.chmod(mode)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _follow(launch: str, messages: Path, session: PayloadSession) -> int:
    """Run the launch in a process group of its own, pass on what it writes, and return its exit code."""
    process = subprocess.Popen(
        ["bash", "-c", launch],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with messages.open("rb") as inbox:
            _pump(process, inbox, session)
            return process.wait()
    finally:
        _end(process)


def _pump(process: subprocess.Popen[bytes], inbox: IO[bytes], session: PayloadSession) -> None:
    with selectors.DefaultSelector() as selector:
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, name)
        while selector.get_map():
            for key, _ in selector.select(_POLL_SECONDS):
                block = os.read(key.fd, _BLOCK_BYTES)
                if block:
                    session.take(key.data, block)
                else:
                    selector.unregister(key.fileobj)
            session.take("messages", inbox.read())
            if process.poll() is not None:
                # A process that was left behind may hold the pipes open for ever; it ends with the payload.
                _signal_group(process, signal.SIGKILL)
    session.take("messages", inbox.read())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no process behind, also when this one is interrupted."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_TERMINATION_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
