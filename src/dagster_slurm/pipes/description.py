"""What a step writes to `launch.json`, and what it asks of one that it finds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields

from dagster import DagsterInstance

from dagster_slurm.cluster.description import Description
from dagster_slurm.job.handle import short_digest
from dagster_slurm.job.retrying import Outcome
from dagster_slurm.launchers import Payload, work_files
from dagster_slurm.pipes.launch_key import PieceOfWork
from dagster_slurm.pipes.step import Step
from dagster_slurm.process_identity import Life, ProcessIdentity
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
    elements: Mapping[str, Sequence[Outcome]] | None = None,
) -> Description:
    """What `launch.json` tells of a call.

    Args:
        step: The step.
        work: Which piece of work it is.
        digests_of: What tells one deploy from another.
        environment_path: What its payload runs in; None for nothing of ours.
        elements: The partitions of a job array, by the number of the task, and how each has ended before.
    """
    earlier = tuple(tuple(each.to_value() for each in outcomes) for outcomes in (elements or {}).values())
    run = step.run
    return Description(
        origin_run_id=work.key.origin_run_id,
        run_id=run.run_id if run else "",
        job=run.job_name if run else "",
        step_key=work.key.step_key,
        partition_keys=work.key.partition_keys,
        call=work.key.call,
        assets=work.assets,
        process=ProcessIdentity.of_this_process(),
        environment_path=environment_path or "",
        elements=tuple(elements or ()),
        earlier=earlier if any(earlier) else (),
        digests=digests_of,
    )


def differences(found: Description, digests_of: Mapping[str, str]) -> list[str]:
    """What differs between an adopted job and what would be submitted now, in words."""
    return [words for name, words in _DIGESTS.items() if found.digests.get(name) != digests_of.get(name)]


def is_abandoned(found: Description, instance: DagsterInstance) -> bool:
    """Whether nobody works on an attempt any more, as far as can be told from here.

    Dagster's word counts where it knows the run; otherwise the process that submitted has to be known to be gone.
    """
    run = instance.get_run_by_id(found.run_id) if found.run_id else None
    if run is not None:
        group = instance.get_run_group(run.run_id)
        return all(each.is_finished for each in (group[1] if group else [run]))
    return found.process is not None and found.process.life() is Life.GONE
