"""A cluster on this machine, whose Slurm says what it is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.slurm_programs import Slurm

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.transport import LocalTransport


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    made = Slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.directory}:{os.environ['PATH']}")
    return made


@pytest.fixture
def cluster(slurm: Slurm, tmp_path: Path) -> Iterator[SlurmCluster]:
    with closing(LocalTransport(channels=1)) as transport:
        yield SlurmCluster(transport, remote_base=str(tmp_path / "base it's"))
