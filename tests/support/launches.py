"""Launches in a directory of this machine, made as on a cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.records import ClaimRecord, SbatchAnswer
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.transport import TreeEntry

RUN = "8d9f0c1e-0000-4000-8000-000000000000"
KEY = "step-0123456789ab"
DESCRIPTION = Description(step_key="step", assets=('a "quoted" | word',))


def created(
    cluster: SlurmCluster,
    run: str = RUN,
    key: str = KEY,
    attempt: int = 0,
    asset: str = "",
    description: Description = DESCRIPTION,
) -> RunDirectory:
    """An attempt, with files in its work/ that look like the attempt's own."""
    directory = RunDirectory(cluster.base(), run, key, attempt)
    files = directory.files(
        script="#!/bin/bash\n",
        env="",
        context=b"{}",
        work=[TreeEntry("protocol", b"99\n"), TreeEntry("claim/0/status", b"0\n"), TreeEntry("data", bytes(40000))],
        description=description.to_json(),
        asset_digest=asset,
    )
    cluster.transport.put_tree(files, directory.path)
    if asset:
        links = Path(cluster.base(), "assets")
        links.mkdir(exist_ok=True)
        (links / asset).symlink_to(f"../runs/{directory.relative}")
    return directory


def claimed(
    directory: RunDirectory, generation: int = 0, *, job_id: str = "17", gate: str = "", refused: str = ""
) -> Path:
    """A try to submit: answered with a job, or refused, or with neither of them not answered."""
    claim = Path(directory.claim(generation))
    claim.mkdir(parents=True)
    (claim / "stdout").write_text(f"a word of the site\n{job_id};cluster\n" if job_id and not refused else "")
    (claim / "stderr").write_text(f"{refused}\n" if refused else "")
    if job_id or refused:
        (claim / "status").write_text("1\n" if refused else "0\n")
    if gate:
        (claim / "gate").symlink_to(gate)
    return claim


def claim_record(generation: int, job_id: str = "", owner: str = "") -> ClaimRecord:
    """A try to submit, as it is read: without a job it is not answered."""
    return ClaimRecord(generation, SbatchAnswer(0, f"{job_id}\n") if job_id else None, owner)


def adopted(cluster: SlurmCluster, found: RunDirectory, run: str = "other", attempt: int = 0) -> RunDirectory:
    """An attempt of another launch that is a link to this one."""
    link = RunDirectory(cluster.base(), run, found.key, attempt)
    Path(link.launch).mkdir(parents=True, exist_ok=True)
    Path(link.path).symlink_to(f"../../{found.relative}")
    return link


def aged(path: Path, seconds: float = 90000.0) -> None:
    """As if nobody had touched it since."""
    os.utime(path, (time.time() - seconds,) * 2, follow_symlinks=False)
