"""The payload as a process of this machine: no Slurm, no SSH, the same layout and the same messages."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dagster import PipesClient

from dagster_slurm.errors import JobFailedError, OutputNotFoundError, PayloadFailedError
from dagster_slurm.job.batch_script import env_file
from dagster_slurm.launchers import Payload
from dagster_slurm.launchers.payload import PathLike
from dagster_slurm.pipes.dagster_private import StepContext
from dagster_slurm.pipes.data import SlurmCompletedInvocation, outputs_directory, result_name, results_directory
from dagster_slurm.pipes.dry_run import refuse_in_dry_run
from dagster_slurm.pipes.elements import partition_variables
from dagster_slurm.pipes.failure import failure, failure_without_output
from dagster_slurm.pipes.launch_key import piece_of_work
from dagster_slurm.pipes.partition_results import (
    Recorder,
    SlurmPartitionsInvocation,
    partitions_failure,
    partitions_of,
    recorded,
)
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.step_logs import StepLogs
from dagster_slurm.process_identity import of_session
from dagster_slurm.staging import Staging, on_this_machine
from dagster_slurm.staging.collect import Collected
from dagster_slurm.work.spec import PayloadOptions, Tasks, WorkSpec, takes

if TYPE_CHECKING:
    # Part of `typing` from Python 3.11 on.
    from typing_extensions import Unpack

Take = Callable[[str, bytes], None]

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

    @takes(PayloadOptions)
    def run(  # type: ignore[override]
        self, *, context: StepContext, payload: Payload | PathLike, **options: Unpack[PayloadOptions]
    ) -> SlurmCompletedInvocation:
        """Run the payload and wait for its end.

        Args:
            context: The context of the asset, asset check or op.
            payload: The payload, or what `payload_from_path` makes one of.
            options: What else there is to say: see `PayloadOptions`.

        Raises:
            Failure: It ended with another exit code than 0; the cause is a `PayloadFailedError`. Or it has not left one
                of its outputs; the cause is an `OutputNotFoundError`.
        """
        refuse_in_dry_run("LocalPipesClient.run")
        return self.do(Step.of(context), WorkSpec.of(payload, **options))

    def do(self, step: Step, spec: WorkSpec) -> SlurmCompletedInvocation:
        """The same, for what is merged already."""
        with self._directory() as directory:
            paths = {"context_path": str(directory / "context.json"), "messages_path": str(directory / "messages")}
            with step.pipes.session(spec.extras, **paths) as session:
                launch = self._prepare(
                    directory,
                    spec,
                    context=session.context_data,
                    variables=session.variables(spec.extra_env),
                )
                step.log.info(f"Running {spec.payload.program} on this machine in {directory}")
                exit_code = _follow(launch, directory / "messages", session.take)
                session.reader.finish()
            collected = Collected() if exit_code else self._collect(step, spec.staging, directory / "work")
        if exit_code:
            raise failure(self._error(exit_code, session.logs.stderr_tail(), directory), {"exit_code": exit_code})
        return SlurmCompletedInvocation(session.pipes, collected)

    @takes(PayloadOptions)
    def run_partitions(
        self, *, context: StepContext, payload: Payload | PathLike, **options: Unpack[PayloadOptions]
    ) -> SlurmPartitionsInvocation:
        """Run the payload for each partition of the run, one after the other; each is on record when it ends.

        Args:
            context: The context of the asset.
            payload: The payload, or what `payload_from_path` makes one of.
            options: What else there is to say: see `PayloadOptions`.

        Raises:
            InvalidRequestError: The run has no partitions, or something else was asked for that cannot be had.
            Failure: Partitions have failed; the others are materialised.
        """
        refuse_in_dry_run("LocalPipesClient.run_partitions")
        step = Step.of(context)
        return self.do_partitions(step, WorkSpec.of(payload, tasks=Tasks(len(partitions_of(step))), **options))

    def do_partitions(self, step: Step, spec: WorkSpec) -> SlurmPartitionsInvocation:
        """The same, for what is merged already."""
        partitions = partitions_of(step)
        work = piece_of_work(step, spec.name, "retry")
        done = recorded(step, work.key.origin_run_id, spec.name)
        contexts, recorder, logs = step.pipes.contexts(spec.extras), Recorder(step, spec.name), StepLogs()
        failed: dict[str, JobFailedError] = {}
        for partition in partitions:
            have = done.get(partition, set())
            if set(step.asset_keys) <= have:
                continue
            with self._directory() as directory:
                messages = directory / "messages"
                session = step.pipes.element(partition, messages_path=str(messages), logs=logs)
                launch = self._prepare(
                    directory,
                    spec,
                    context=json.dumps(contexts.of(partition)).encode(),
                    variables=_variables_of(partition, directory, spec.extra_env),
                )
                exit_code = _follow(launch, messages, session.take)
                session.finish()
                if exit_code:
                    failed[partition] = self._error(exit_code, str(session.logs.stderr_tail), directory)
                    step.log.error(f"Partition {partition}: {failed[partition]}")
                else:
                    recorder.record(partition, session, {}, job_id="", done=have)
        if failed:
            raise partitions_failure(failed, len(partitions))
        return SlurmPartitionsInvocation(step, recorder.results)

    def _prepare(self, directory: Path, spec: WorkSpec, *, context: bytes, variables: Mapping[str, str]) -> str:
        """Put everything into a directory; what bash has to run then."""
        for entry in spec.files:
            _copy(entry.source, directory / "work" / entry.name, entry.mode)
        on_this_machine.place(spec.staging.inputs, directory / "work")
        (directory / "context.json").write_bytes(context)
        (directory / "messages").touch()
        _write_private(directory / "env.sh", env_file(variables))
        return spec.script_here(str(directory), self._python)

    def _collect(self, step: Step, staging: Staging, work: Path) -> Collected:
        if not staging.outputs.patterns:
            return Collected()
        result = results_directory(step) / result_name(step.run.run_id if step.run else "direct", "0")
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

    def _error(self, exit_code: int, stderr_tail: str, directory: Path) -> PayloadFailedError:
        said = f"\nLast lines of stderr:\n{stderr_tail}" if stderr_tail else "\nIt wrote nothing to stderr."
        kept = str(directory) if self._keep else "nothing was kept (debug_mode=True keeps the directory)"
        signal_number = -exit_code if exit_code < 0 else 0
        outcome = f"signal {signal_number}" if signal_number else f"exit code {exit_code}"
        return PayloadFailedError(
            f"The payload did not succeed.{said}\nState FAILED, {outcome}, node {os.uname().nodename}; {kept}",
            state="FAILED",
            exit_code=None if signal_number else exit_code,
            signal=signal_number,
            node=os.uname().nodename,
            stderr_tail=stderr_tail,
        )


def _variables_of(partition: str, directory: Path, extra_env: Mapping[str, str] | None) -> dict[str, str]:
    place = {"context": str(directory / "context.json"), "messages": str(directory / "messages")}
    return {
        "PYTHONUNBUFFERED": "1",
        **(extra_env or {}),
        "DAGSTER_SLURM_CHECKPOINT_DIR": str(directory / "checkpoint"),
        **partition_variables(partition, **place),
    }


def _copy(source: bytes | Path, destination: Path, mode: int) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    destination.chmod(mode)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _follow(launch: str, messages: Path, take: Take) -> int:
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
            _pump(process, inbox, take)
            return process.wait()
    finally:
        _end(process)


def _pump(process: subprocess.Popen[bytes], inbox: IO[bytes], take: Take) -> None:
    with selectors.DefaultSelector() as selector:
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, name)
        while selector.get_map():
            for key, _ in selector.select(_POLL_SECONDS):
                block = os.read(key.fd, _BLOCK_BYTES)
                if block:
                    take(key.data, block)
                else:
                    selector.unregister(key.fileobj)
            take("messages", inbox.read())
            if process.poll() is not None:
                # A process that was left behind may hold the pipes open for ever; it ends with the payload.
                _kill_session(process)
    take("messages", inbox.read())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no process behind, also when this one is interrupted."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_TERMINATION_SECONDS)
    _kill_session(process)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """With hooks the payload has a process group of its own, and so has what they start."""
    _signal_group(process, signal.SIGKILL)
    for pid in of_session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
