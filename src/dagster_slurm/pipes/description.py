"""`launch.json`: which piece of work a run directory is, and of what.

For people, for `dagster-slurm jobs`, and to tell whether anybody works on it. No secrets: digests stand for content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from dagster import DagsterInstance

from dagster_slurm.job.handle import short_digest
from dagster_slurm.launchers import Payload, work_files
from dagster_slurm.pipes.launch_key import PieceOfWork
from dagster_slurm.pipes.step import Step
from dagster_slurm.process_identity import Life, ProcessIdentity
from dagster_slurm.run_directory import PROTOCOL_VERSION
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.transport import content

_DIGESTS = {
    "payload": "the payload",
    "options": "what is asked of Slurm",
    "environment": "the environment",
    "inputs": "what it reads as inputs",
}


def digests(payload: Payload, request: JobRequest, environment: str, inputs: str = "") -> dict[str, str]:
    """What tells one deploy from another."""
    options = {field.name: getattr(request, field.name) for field in fields(request)}
    return {
        "payload": hashlib.sha256(_content(payload)).hexdigest()[:16],
        "options": short_digest({**options, "options": dict(request.options)}),
        "environment": environment,
        **({"inputs": inputs} if inputs else {}),
    }


def _content(payload: Payload) -> bytes:
    """What has to be the same for a payload to be the same: its content if it is sent, else its name."""
    if payload.source is None:
        return f"{'-m ' if payload.form == 'module' else ''}{payload.program}".encode()
    if not payload.source.is_dir():
        return payload.source.read_bytes()
    # A digest of each: a large directory has no place in memory. No file's name holds a NUL.
    return b"".join(
        os.fsencode(entry.name) + b"\0" + content.digest(entry.source)[0].encode()
        for entry in work_files(payload, None)
    )


def describe(
    step: Step,
    work: PieceOfWork,
    digests_of: Mapping[str, str],
    *,
    environment_path: str | None,
    elements: Sequence[str] | None = None,
) -> str:
    """The text of `launch.json`, one line; with the partitions of a job array, by the number of the task."""
    run = step.run
    return json.dumps(
        {
            "protocol": PROTOCOL_VERSION,
            "origin_run_id": work.key.origin_run_id,
            "run_id": run.run_id if run else None,
            "job": run.job_name if run else None,
            "step_key": work.key.step_key,
            "partition_keys": list(work.key.partition_keys),
            "call": work.key.call,
            "assets": list(work.assets),
            "process": json.loads(ProcessIdentity.of_this_process().to_json()),
            # `dagster-slurm env prune` leaves what a job may run in.
            "environment_path": environment_path,
            **({} if elements is None else {"elements": list(elements)}),
            **digests_of,
        }
    )


def elements_of(description: str) -> tuple[str, ...]:
    """The partitions of a job array, by the number of the task."""
    return tuple(_read(description).get("elements", ()))


def differences(description: str, digests_of: Mapping[str, str]) -> list[str]:
    """What differs between an adopted job and what would be submitted now, in words."""
    recorded = _read(description)
    return [words for name, words in _DIGESTS.items() if recorded.get(name) != digests_of.get(name)]


def is_abandoned(description: str, instance: DagsterInstance) -> bool:
    """Whether nobody works on an attempt any more, as far as can be told from here.

    Dagster's word counts where it knows the run; otherwise the process that submitted has to be known to be gone.
    """
    recorded = _read(description)
    run = instance.get_run_by_id(recorded["run_id"]) if recorded.get("run_id") else None
    if run is not None:
        group = instance.get_run_group(run.run_id)
        return all(each.is_finished for each in (group[1] if group else [run]))
    try:
        return ProcessIdentity.from_mapping(recorded.get("process")).life() is Life.GONE
    except ValueError:
        return False


def _read(description: str) -> dict[str, Any]:
    try:
        recorded = json.loads(description)
    except ValueError:
        return {}
    return recorded if isinstance(recorded, dict) else {}
