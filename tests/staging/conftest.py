"""A cluster's file system to send to and fetch from: this machine's own, or the sandbox's login node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.staging import DataOptions, plan_staging
from dagster_slurm.staging.collect import Collected, Collector
from dagster_slurm.staging.store import InputStore
from dagster_slurm.transport import LocalTransport, OpenSSHTransport, Transport
from dagster_slurm.transport.shell_transport import ShellTransport

from ..ssh import connection_of


@pytest.fixture(autouse=True)
def _of_its_own(local_store: Path) -> None:
    """Every test here has one."""


@dataclass
class Far:
    """A cluster, the directory of a run on it, and what was said and asked."""

    cluster: SlurmCluster
    base: str
    told: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    @property
    def work(self) -> str:
        return f"{self.base}/runs/r/k/0/work"

    def shell(self, script: str) -> str:
        """Run a script in the base directory there."""
        answer = self.cluster.transport.run(f'cd -- "$1" || exit\n{script}', (self.base,))
        assert answer.returncode == 0, answer.error_text
        return answer.text

    def left(self, **files: str) -> None:
        """Have a payload leave files; names have `__` for a slash and `_dot_` for a dot."""
        for name, text in files.items():
            path = name.replace("__", "/").replace("_dot_", ".")
            self.cluster.transport.run(
                'mkdir -p -- "${1%/*}"; cat >"$1"', (f"{self.work}/{path}",), stdin=text.encode()
            )

    def store(self, inputs: object) -> InputStore:
        plan = plan_staging(DataOptions(inputs))  # type: ignore[arg-type]
        return InputStore(self.cluster, plan.inputs, self.told.append)

    def provide(self, inputs: object) -> None:
        store = self.store(inputs)
        store.upload()
        store.place(self.work)

    def collector(self, **options: object) -> Collector:
        staging = plan_staging(DataOptions(**options))  # type: ignore[arg-type]
        return Collector(self.cluster, staging, work=self.work, job_id="7", tell=self.told.append)

    def collect(self, to: Path, **options: object) -> Collected:
        return self.collector(**options).collect(outputs_dir=to, result="asset/run.0")


@pytest.fixture(params=["here", *(pytest.param(way, marks=pytest.mark.cluster) for way in ("key", "password"))])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    if request.param == "here":
        made: Transport = LocalTransport()
    else:
        sandbox: Sandbox = request.getfixturevalue("sandbox")
        # With a password there is one session: everything goes through one channel.
        made = OpenSSHTransport(connection_of(sandbox.env(strict=request.param == "password")))
    yield made
    made.close()


@pytest.fixture
def far(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    base = transport.run('mktemp -d "$HOME/it\'s data.XXXXXX"').text.strip()
    far = Far(SlurmCluster(transport, remote_base=base), base)
    _note_what_is_sent(far, monkeypatch)
    yield far
    transport.run('chmod -R u+rwX -- "$1"; rm -rf -- "$1"', (base,))


def _note_what_is_sent(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    def noting(method: Callable[..., None]) -> Callable[..., None]:
        def noted(self: ShellTransport, source: object, destination: str, **named: object) -> None:
            far.sent.append(destination)
            method(self, source, destination, **named)

        return noted

    for name in ("put", "put_tree"):
        monkeypatch.setattr(ShellTransport, name, noting(getattr(ShellTransport, name)))
