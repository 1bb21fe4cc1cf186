"""Planted secrets, looked for everywhere during and after a real run: they are where they must be, and nowhere else."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm import ComputeResource, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import LoginNode, Sandbox
from dagster_slurm.transport import OpenSSHTransport
from tests.ssh import control_directory
from tests.support import forked
from tests.support.environments import copied_environment
from tests.support.files import PREFIX, let_everybody_in
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

RUN = Path(__file__).with_name("one_run.py")
YOUNG_SECONDS = 0.5
LARGEST_FILE_BYTES = 64 << 20
# Tells that it runs, waits to be let go, and ends as it is told.
PAYLOAD = """
import os, pathlib, sys, time
assert os.environ["PLANTED"]
here = pathlib.Path({signals!r})
(here / "running").touch()
while not (here / "go").exists():
    time.sleep(0.02)
print("a line", flush=True)
sys.exit({status})
"""


@dataclass
class Watch:
    """Looks at the command line and the environment of every process, again and again, while a block runs.

    At one that has just begun, every few milliseconds: it may end soon, or become another (execve(2)).
    """

    words: Sequence[bytes]
    port: int
    uid: int
    payload: str
    samples: int = 0
    found: set[str] = field(default_factory=set)
    payloads: set[str] = field(default_factory=set)
    clients: set[str] = field(default_factory=set)
    _first_seen: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def sample(self, young_seconds: float = float("inf")) -> None:
        """Look at all, or at those which were not there so long ago."""
        now = time.monotonic()
        there = {name for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 - done hundreds of times a second
        self._first_seen = {name: self._first_seen.get(name, now) for name in there}
        for name, since in self._first_seen.items():
            # Processes come and go.
            if now - since < young_seconds:
                with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    self._look_at(Path("/proc", name))
        self.samples += 1

    def _look_at(self, directory: Path) -> None:
        command = (directory / "cmdline").read_bytes()
        shown = command.replace(b"\0", b" ").decode(errors="replace")
        if any(word in command for word in self.words):
            self.found.add(f"command line of {directory.name}: {shown}")
        is_client = command.startswith(b"ssh\0") and str(self.port).encode() in command
        if is_client:
            self.clients.add(directory.name)
        if not is_client and directory.stat().st_uid != self.uid:
            return
        environment = (directory / "environ").read_bytes()
        if not any(word in environment for word in self.words):
            return
        # Read once more: in the middle of execve(2) a process has its new environment and no command line yet.
        shown = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        if self.payload in shown and not is_client and self.words[0] not in environment:
            self.payloads.add(directory.name)
        else:
            self.found.add(f"environment of {directory.name}: {shown}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.sample()
            for _ in range(20):
                self._stop.wait(0.005)
                self.sample(YOUNG_SECONDS)


@dataclass
class Planted:
    """One run with secrets planted in it, and what was found where."""

    report: Mapping[str, Any]
    output: str
    watch: Watch
    during: list[str]
    after: list[str]
    logins: int


def files_with(words: Sequence[bytes], places: Sequence[Path], since: float) -> list[str]:
    """Files that hold one of the words, each with its modes and those of its directory."""
    found = set()
    for place in places:
        for directory, below, names in os.walk(place):
            # Directories of tests beside this one, of which there are many; its own is a place by itself.
            below[:] = [name for name in below if not name.startswith((PREFIX, "pytest-of-"))]
            for path in (Path(directory, name) for name in names):
                with suppress(FileNotFoundError):
                    if holds(path, words, since):
                        modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)]
                        found.add(f"{path.name} {modes[0]:o} in {modes[1]:o}: {path}")
    return sorted(found)


def holds(path: Path, words: Sequence[bytes], since: float) -> bool:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_mtime < since or status.st_size > LARGEST_FILE_BYTES:
        return False
    content = path.read_bytes()
    return any(word in content for word in words)


@contextmanager
def running(
    sandbox: Sandbox, node: LoginNode, directory: Path, control_dir: str, status: int
) -> Iterator[forked.Process]:
    payload = directory / "planted.py"
    payload.write_text(PAYLOAD.format(signals=str(directory), status=status))
    directory.chmod(0o777)
    argv = [str(payload), f"~/test-runs/{directory.name}", copied_environment(sandbox, "tests", ["dagster-pipes"])]
    process = forked.start(
        [sys.executable, str(RUN), *argv, str(directory / "report")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **node.env(password=True), "DAGSTER_SLURM_SSH_CONTROL_DIR": control_dir},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def plant(sandbox: Sandbox, directory: Path, control_dir: str, *, status: int) -> Planted:
    secret, began = secrets.token_hex(16), time.time() - 2
    options = ["PubkeyAuthentication no"]
    with sandbox.login_node(options=options) as node:
        words = [node.password.encode(), secret.encode()]
        watch = Watch(words, node.port, sandbox.home.stat().st_uid, "python planted.py")
        # The run's own directory by itself, too: a walk may miss what stands beside directories that come and go.
        base = sandbox.home / "test-runs" / directory.name
        places = [base, directory, Path(control_dir), Path("/tmp"), Path("/dev/shm"), *state_of(sandbox)]
        with (
            running(sandbox, node, directory, control_dir, status) as process,
            watch.watching(),
        ):
            assert process.stdin is not None
            process.stdin.write(json.dumps({"PLANTED": secret}) + "\n")
            process.stdin.flush()
            eventually(lambda: (directory / "running").exists() or process.poll() is not None)
            during = files_with(words, places, began)
            (directory / "go").touch()
            output = process.communicate(timeout=120)[0]
        after = files_with(words, places, began)
        logins = node.logins()
    return Planted(json.loads((directory / "report").read_text()), output, watch, during, after, logins)


def state_of(sandbox: Sandbox) -> list[Path]:
    """Where Slurm, sshd and the user keep their files; the sandbox's own copy of the password lies elsewhere."""
    return [sandbox.paths.state_dir / name for name in ("home", "spool", "slurmctld", "log", "etc", "run", "ssh")]


@pytest.fixture(scope="module", params=[0, 3], ids=["a run that succeeds", "a run that fails"])
def planted(
    request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Planted]:
    directory = tmp_path_factory.mktemp(f"planted{request.param}")
    let_everybody_in(directory)
    with control_directory() as control_dir:
        run = plant(sandbox, directory, control_dir, status=request.param)
        assert run.report["success"] == (request.param == 0), run.output
        yield run


def test_no_process_shows_a_secret_but_the_payload_its_own(planted: Planted) -> None:
    assert planted.watch.found == set()
    assert planted.watch.samples > 20
    # What was looked at was there to be seen.
    assert planted.watch.payloads
    assert planted.watch.clients


def test_during_the_run_the_only_file_is_private_in_a_private_directory(planted: Planted) -> None:
    assert [line.partition(":")[0] for line in planted.during] == ["env.sh 600 in 700"]
    assert "/test-runs/" in planted.during[0]


def test_after_the_run_there_is_none(planted: Planted) -> None:
    assert planted.after == []


def test_neither_events_nor_logs_nor_errors_tell(planted: Planted) -> None:
    told = json.dumps(planted.report) + planted.output
    assert "Submitted Slurm job" in told
    assert [word for word in planted.watch.words if word.decode() in told] == []


def test_a_password_from_the_environment_costs_one_login(planted: Planted) -> None:
    assert planted.logins == 1


def test_representations_hide_secrets() -> None:
    word = secrets.token_hex(16)
    jump = SSHConnectionResource(host="gate", password=word)
    ssh = SSHConnectionResource(host="login", password=word, jump_host=jump)
    compute = ComputeResource(mode="slurm", slurm=SlurmResource(ssh=ssh))
    connection = ssh.connection()
    assert connection.password == word
    shown = [ssh, compute, compute.slurm, connection, OpenSSHTransport(connection), connection.control_path()]
    assert [each for each in shown if word in f"{each!r}{each}{[each]}"] == []
