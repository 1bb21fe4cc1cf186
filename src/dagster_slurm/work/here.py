"""The carriers of a call on this machine: a process for each unit, one after the other, in the layout of a cluster."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dagster_slurm import descriptors
from dagster_slurm.cluster.description import EndMark
from dagster_slurm.environments import package_of
from dagster_slurm.job.batch_script import env_file
from dagster_slurm.job.cancelling import Withdrawal
from dagster_slurm.job.events import Ended, Listener, Output, Started
from dagster_slurm.job.retrying import Outcome
from dagster_slurm.pipes.partition_results import outputs_directory, result_name, results_directory
from dagster_slurm.pipes.step import Step
from dagster_slurm.process_identity import of_session
from dagster_slurm.run_directory import JobHandle, RunDirectory, short_digest
from dagster_slurm.slurm.efficiency import Figures
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.slurm.states import JobState
from dagster_slurm.staging import on_this_machine
from dagster_slurm.staging.collect import Collected
from dagster_slurm.work.carriers import Carrier, Carriers, Tries, unit_variables
from dagster_slurm.work.memory_here import MemoryHere
from dagster_slurm.work.spec import WorkSpec, cpus_here

_POLL_SECONDS = 0.05
_BLOCK_BYTES = 1 << 16
_TERMINATION_SECONDS = 10.0
_QUIET_SECONDS = 1.0
_DRAIN_SECONDS = 10.0
_SIGNAL_BASE = 128
# Of one that is over sooner, too little was seen of its memory.
_SEEN_SECONDS = 0.2
# Its streams, its messages and its lifeline, and what a start needs for a moment; and as much for everything else.
_ROOM = descriptors.Room(32)
# The read end of a pipe whose other end is this process's: it ends with it, however it dies, and the payload as well.
_LIFELINE = """{{ trap '' TERM; read -r _ <&{0}; kill -TERM 0; sleep {1}; kill -KILL 0; }} </dev/null >/dev/null 2>&1 &
exec {0}<&-
"""


@dataclass
class Drain:
    """How long what a payload has left behind may write, when it has ended itself; it ends with the payload then.

    As the `tee` of `exec > >(tee log)`: as long as something comes, within bounds, and a second.
    """

    last: float = 0.0
    _since: float | None = None

    def is_over(self, now: float) -> bool:
        """Whether it is; the payload has ended by the first call."""
        self._since = now if self._since is None else self._since
        return now - max(self.last, self._since) > _QUIET_SECONDS or now - self._since > _DRAIN_SECONDS


class LocalCarriers(Carriers):
    """As `Carriers`, on this machine. It knows nothing of other processes: a unit's process ends with this one.

    Args:
        step: The step.
        spec: What is to be run for each unit.
        call: What tells the call from others of the step.
        python: The interpreter for Python payloads.
        keeps: Whether the directories are left for inspection.
    """

    NOTHING = "its payload was ended"

    def __init__(self, step: Step, spec: WorkSpec, call: str, *, python: str, keeps: bool) -> None:
        self._step = step
        self._spec = spec
        self._call = call
        self._python = python
        self._keeps = keeps
        self._base = Path(tempfile.mkdtemp(prefix="dagster-slurm-"))
        self._contexts = step.pipes.contexts(spec.extras)
        self._process: Process | None = None

    @property
    def host(self) -> str:
        """This machine."""
        return os.uname().nodename

    def room(self, request: JobRequest, units: int, *, may_wait: bool) -> int:
        """As `Carriers.room`."""
        return 1 if may_wait else 0

    def submit(self, number: int, tries: Tries, request: JobRequest) -> Carrier:
        """As `Carriers.submit`; it begins when it is watched."""
        ((unit, earlier),) = tries.items()
        directory = RunDirectory(str(self._base), "here", short_digest(unit), len(earlier))
        variables = {
            "PYTHONUNBUFFERED": "1",
            **(self._spec.extra_env or {}),
            **unit_variables(directory, unit, len(earlier), self._step.partition_keys),
        }
        context = json.dumps(self._contexts.of(unit))
        self._make(directory, self._spec, context=context, env=env_file(variables))
        return Carrier(number, JobHandle(directory, ""), (unit,), (unit,), request)

    def _make(self, directory: RunDirectory, spec: WorkSpec, *, context: str, env: str) -> None:
        """Make what a payload finds."""
        work = Path(directory.work)
        for entry in spec.files:
            _copy(entry.source, work / entry.name, entry.mode)
        work.mkdir(parents=True, exist_ok=True)
        on_this_machine.place(spec.staging.inputs, work)
        for path in (directory.checkpoint, f"{directory.path}/log", f"{directory.path}/pipes"):
            Path(path).mkdir(parents=True, exist_ok=True)
        Path(directory.context).write_text(context, encoding="utf-8")
        Path(directory.messages).touch()
        _write_private(Path(directory.env_file), env)
        self._step.log.info(f"Running {spec.payload.program} on this machine in {directory.path}")

    def watch(self, jobs: Sequence[tuple[Carrier, JobHandle, Listener]]) -> None:
        """As `Carriers.watch`: the process begins."""
        for _, handle, listener in jobs:
            self._process = self._start(self._spec, handle, listener)

    def _start(self, spec: WorkSpec, handle: JobHandle, listener: Listener) -> Process:
        launch = spec.script_here(handle.directory.path, self._python)
        with _ROOM.opening(self._step.log.warning):
            return Process(launch, Path(handle.directory.messages), listener)

    def forget(self, listeners: Sequence[Listener]) -> None:
        """As `Carriers.forget`: nobody else would follow it, so it ends."""
        if self._process is not None:
            self._process.end()

    def kept(self, handle: JobHandle) -> str:
        """As `Carriers.kept`."""
        return handle.directory.path if self._keeps else "nothing was kept (debug_mode=True keeps the directory)"

    def missing(self, module: str) -> str:
        """As `Carriers.missing`."""
        adds = f"`{self._python} -m pip install {package_of(module)}`"
        return f"It ran in the environment of {self._python} on this machine, which does not have it: {adds} adds it."

    def collect(self, unit: str, handle: JobHandle) -> Collected:
        """As `Carriers.collect`."""
        staging = self._spec.staging
        if not staging.outputs.patterns:
            return Collected()
        run_id = self._step.run.run_id if self._step.run else "direct"
        result = results_directory(self._step, unit) / result_name(run_id, self._call)
        outputs_dir = outputs_directory(self._step, unit, self._spec.name) if staging.outputs.needs_default else Path()
        work = Path(handle.directory.work)
        return on_this_machine.collect(staging, work, outputs_dir=outputs_dir, result=result, is_kept=self._keeps)

    def close(self, carrier: Carrier, failed: Mapping[int | None, Outcome]) -> None:
        """As `Carriers.close`: its checkpoints stay for the next attempt."""
        if not self._keeps:
            shutil.rmtree(carrier.directory.path, ignore_errors=True)

    def withdraw(self) -> Withdrawal:
        """As `Carriers.withdraw`."""
        self.forget(())
        return Withdrawal()

    def remove(self) -> None:
        """The call has ended: leave nothing behind."""
        self.forget(())
        if not self._keeps:
            shutil.rmtree(self._base, ignore_errors=True)


class Uninterrupted:
    """In the place of `Interruptions`: whatever interrupts Dagster's step ends its process, and that its payload."""

    is_terminated = is_detached = has_jobs = False

    def check(self, *, afresh: bool = False) -> None:
        """Go on."""


class Process:
    """A payload in a session of its own, with what it writes told to a listener.

    Args:
        launch: What bash runs.
        messages: The file to which it writes its messages.
        listener: Is told what it writes, and its end.
    """

    def __init__(self, launch: str, messages: Path, listener: Listener) -> None:
        read, self._lifeline = os.pipe()
        self._process = subprocess.Popen(
            ["bash", "-c", _LIFELINE.format(read, int(_TERMINATION_SECONDS)) + launch],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=(read,),
        )
        os.close(read)
        self._started_at = time.time()
        self._cpu_seconds: float | None = None
        self._memory = MemoryHere(self._process.pid)
        self._messages, self._listener = messages, listener
        self._has_ended = threading.Event()
        self._is_to_end = False
        threading.Thread(target=self._tell, name="dagster-slurm-payload", daemon=True).start()

    def end(self) -> None:
        """Leave no process behind, also when this one is interrupted."""
        if self._has_ended.is_set():
            return
        self._is_to_end = True
        _signal_group(self._process.pid, signal.SIGTERM)
        if not self._has_ended.wait(_TERMINATION_SECONDS):
            self._kill_session()
            self._has_ended.wait()

    def _tell(self) -> None:
        node = os.uname().nodename
        self._listener.put(Started(node, 0))
        try:
            with self._messages.open("rb") as inbox:
                self._pump(inbox)
            while not self._is_over():
                time.sleep(_POLL_SECONDS)
        finally:
            self._kill_session()
            os.close(self._lifeline)
            _ROOM.closed()
            self._has_ended.set()
        status = self._process.returncode or 0
        code = _SIGNAL_BASE - status if status < 0 else status
        state, now = JobState.FAILED if code else JobState.COMPLETED, time.time()
        self._listener.put(Ended(state, None, EndMark("", 0, code, now, {}, figures=self._figures(now)), node))

    def _is_over(self) -> bool:
        """Whether the payload has ended; while it has not, a look at its memory."""
        if self._process.returncode is None:
            self._memory.look()
            pid, status, used = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                # Its ru_maxrss is no use: it counts what this process had when it started the payload.
                self._cpu_seconds = used.ru_utime + used.ru_stime
        return self._process.returncode is not None

    def _figures(self, ended_at: float) -> Figures:
        was_seen = ended_at - self._started_at >= _SEEN_SECONDS
        return Figures(
            started_at=self._started_at,
            nodes=1,
            cpus=cpus_here(),
            memory_bytes=self._memory.most_bytes if was_seen else None,
            cpu_seconds=self._cpu_seconds,
        )

    def _pump(self, inbox: IO[bytes]) -> None:
        streams = {"stdout": self._process.stdout, "stderr": self._process.stderr}
        with selectors.DefaultSelector() as selector:
            for name, pipe in streams.items():
                if pipe is not None:
                    selector.register(pipe, selectors.EVENT_READ, name)
            drain, is_over = Drain(), False
            while selector.get_map():
                has_ended = self._is_over()
                if has_ended and not is_over and (self._is_to_end or drain.is_over(time.monotonic())):
                    self._kill_session()
                    is_over = True
                ready = selector.select(_POLL_SECONDS)
                if ready:
                    drain.last = time.monotonic()
                if is_over and not ready:
                    # One in a session of its own is not known to be the payload's: it is not waited for.
                    break
                for key, _ in ready:
                    block = os.read(key.fd, _BLOCK_BYTES)
                    if block:
                        self._put(key.data, block)
                    else:
                        selector.unregister(key.fileobj)
                self._put("messages", inbox.read())
        self._put("messages", inbox.read())
        for pipe in filter(None, streams.values()):
            pipe.close()

    def _put(self, stream: str, data: bytes) -> None:
        """A payload that writes faster than Dagster reads waits in its pipe."""
        while data and not self._listener.room_bytes and not self._is_to_end:
            time.sleep(_POLL_SECONDS)
        if data:
            self._listener.put(Output(stream, data))

    def _kill_session(self) -> None:
        """With hooks the payload has a process group of its own, and so has what they start."""
        _signal_group(self._process.pid, signal.SIGKILL)
        for pid in of_session(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _copy(source: bytes | Path, destination: Path, mode: int) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    destination.chmod(mode)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)
