"""Heterogeneous jobs in Slurm's words: components of different shape (heterogeneous_jobs.html). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm.options import setting_names
from dagster_slurm.slurm.request import JobRequest, directive, escape_filename
from dagster_slurm.text import as_written, counted

SEPARATOR = "#SBATCH hetjob"
_COUNT = re.compile(r"\d{1,9}", re.ASCII)
_OF_WHOLE = frozenset(
    {
        *("begin", "dependency", "hold", "kill-on-invalid-dep", "mail-type", "mail-user", "no-requeue", "requeue"),
        *("signal", "signal-before-timeout", "max-queue-hours"),
    }
)
"""Of a later component Slurm takes these and drops them without a word (22.05), or they are one job's by nature."""


def refuse_whole(options: Mapping[str, object], what: str) -> None:
    """Refuse what is asked for a component, and cannot hold for it alone.

    Args:
        options: As `extra_slurm_opts`.
        what: The component.

    Raises:
        InvalidRequestError: There is such an option. Or it is none, or one that dagster-slurm sets.
    """
    for key, name in setting_names(options).items():
        if name in _OF_WHOLE and options[key] is not None:
            raise InvalidRequestError(
                f"{what} asks for {key!r}, which holds for a heterogeneous job as a whole",
                hint="Slurm takes it for a later component, and drops it without a word. "
                "Give it in extra_slurm_opts of the call.",
            )


def refuse_too_many(requests: Mapping[str, JobRequest], nodes_of: Mapping[str, int], default: str) -> None:
    """Refuse components that can never start together: each has nodes of its own.

    Such a job would wait for ever, and hold up those behind it (22.05).

    Args:
        requests: What each component asks for, by its name.
        nodes_of: How many nodes each partition has.
        default: The partition of those that name none.

    Raises:
        InvalidRequestError: They need more nodes than a partition has.
    """
    wanted: dict[str, dict[str, int]] = {}
    for name, request in requests.items():
        wanted.setdefault(request.partition or default, {})[name] = request.nodes
    for partition, components in wanted.items():
        total, there = sum(components.values()), nodes_of.get(partition)
        if there is not None and total > there:
            listed = ", ".join(f"{name} {nodes}" for name, nodes in components.items())
            raise InvalidRequestError(
                f"The components ask for {counted(total, 'node')} of the partition {partition!r}, "
                f"which has {there} ({listed})",
                hint="Components never share a node: lower num_nodes, leave a component out, or give one another "
                "partition.",
            )


def parse_partitions(text: str) -> tuple[dict[str, int], str]:
    """What `sinfo --format='%P|%D'` prints: the nodes of each partition, and the default partition."""
    found: dict[str, int] = {}
    default = ""
    for line in text.splitlines():
        name, _, nodes = line.strip().partition("|")
        if not _COUNT.fullmatch(nodes):
            continue
        default = name[:-1] if name.endswith("*") else default
        found[name.rstrip("*")] = found.get(name.rstrip("*"), 0) + int(nodes)
    return found, default


def of_whole(requests: Sequence[JobRequest]) -> tuple[JobRequest, ...]:
    """The requests, with what holds for the job as a whole left to the first: where it is the same for all, or its own.

    Raises:
        InvalidRequestError: They differ in such an option.
    """
    first = requests[0]
    own = _whole_of(first)
    for later in requests[1:]:
        for name, value in _whole_of(later).items():
            if own.get(name) != value:
                raise InvalidRequestError(
                    f"The components differ in {name!r}: {as_written(own.get(name))} and {as_written(value)}",
                    hint="It holds for a heterogeneous job as a whole, and Slurm drops that of a later component.",
                )
    return (first, *map(_without_whole, requests[1:]))


def _whole_of(request: JobRequest) -> dict[str, str | bool]:
    return {name: value for name, value in request.sbatch_options().items() if name in _OF_WHOLE}


def _without_whole(request: JobRequest) -> JobRequest:
    options = {name: value for name, value in request.options.items() if name not in _OF_WHOLE}
    return replace(request, signal_before_timeout=None, options=options)


def render_hetjob(requests: Sequence[JobRequest], *, output_path: str, body: str) -> str:
    """Write the batch script of a heterogeneous job; see `render_script`. The body runs on the first component.

    Args:
        requests: What is asked for each component.
        output_path: Absolute path of the batch script's own stdout and stderr, taken literally.
        body: What bash runs.

    Raises:
        InvalidRequestError: A path or a value that cannot stand in a directive, or components that differ in what holds
            for all.
    """
    first, *later = (request.sbatch_options() for request in of_whole(requests))
    parts = [{**first, "open-mode": "append", "output": escape_filename(output_path)}, *later]
    blocks = ["\n".join(directive(name, value) for name, value in sorted(part.items())) for part in parts]
    return "\n".join(["#!/bin/bash", f"\n{SEPARATOR}\n".join(blocks), "", body.rstrip("\n"), ""])
