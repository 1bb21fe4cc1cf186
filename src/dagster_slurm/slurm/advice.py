"""What a next job of the same kind could ask for, by what those before it have used. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dagster_slurm.slurm.quantities import format_time_limit
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.text import duration_words, size_words

LEAST_RUNS = 3
"""Fewer runs tell nothing of the next one."""
LEAST_SECONDS = 10.0
"""What is shorter is no measure, and costs nothing."""

_ROOM = 1.25
_LEAST_MIB = 256
_GAIN_MIB = 4096
_GAIN_CPUS = 2
_NOISE_CPUS = 0.15
_TIME_ROOM = 2.0
_LEAST_LIMIT_SECONDS = 900
_GAIN_SECONDS = 3600
# `--ntasks` and the like multiply, `--exclusive` gives whole nodes.
_OTHER_CPUS = frozenset(
    {"ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-socket", "exclusive", "cpus-per-gpu"}
)


@dataclass(frozen=True)
class Use:
    """What one job has used; None for what is not known.

    Args:
        elapsed_seconds: How long it ran.
        cpus: The most CPUs that were busy at once.
        memory_mib: The most memory at once.
    """

    elapsed_seconds: float | None = None
    cpus: float | None = None
    memory_mib: float | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, object]) -> Use:
        """By the metadata of a materialisation."""
        names = ("elapsed_seconds", "max_cpus_used", "max_memory_mb")
        return cls(*(_figure(metadata.get(name)) for name in names))


def _figure(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def advice(request: JobRequest, uses: Sequence[Use], *, of: str = "the last {} runs") -> str:
    """One sentence; empty where there is nothing worth saying.

    Memory is worth it from 4 GiB on, CPUs from two on, and walltime from an hour on; of the first two half of what is
    asked for has to be enough, of walltime a quarter. A figure counts where every run has it.

    Args:
        request: What is asked for.
        uses: What was used, by runs of the same asset that asked for this or anything else; those shorter than
            `LEAST_SECONDS` count for nothing.
        of: What they are, with a place for their number.
    """
    counted = [use for use in uses if (use.elapsed_seconds or 0.0) >= LEAST_SECONDS]
    if len(counted) < LEAST_RUNS or request.nodes != 1:
        return ""
    found = [
        each for each in (_of_memory(request, counted), _of_cpus(request, counted), _of_time(request, counted)) if each
    ]
    if not found:
        return ""
    used, options = (" and ".join(parts) for parts in zip(*found, strict=True))
    return f"Used at most {used} in {of.format(len(counted))}: {options.replace(' and ', ', ')} would do"


def is_worth_asking(request: JobRequest, use: Use) -> bool:
    """Whether there is something to say if the runs before were as this one."""
    return bool(advice(request, [use] * LEAST_RUNS))


_Said = tuple[str, str]


def _most(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return max(known) if len(known) == len(figures) else None


def _of_memory(request: JobRequest, uses: Sequence[Use]) -> _Said | None:
    most, asked = _most([use.memory_mib for use in uses]), request.mem_mib
    if most is None or not asked:
        return None
    enough = round_memory_mib(most * _ROOM)
    if enough > asked / 2 or asked - enough < _GAIN_MIB:
        return None
    size = f"{enough // 1024}G" if enough >= 1024 else f"{enough}M"
    return f"{most / 1024:.1f} of {size_words(asked << 20)}", f'mem="{size}"'


def _of_cpus(request: JobRequest, uses: Sequence[Use]) -> _Said | None:
    most, asked = _most([use.cpus for use in uses]), request.cpus_per_task
    # Where memory is asked for by the CPU, they may be there for its sake.
    if most is None or not asked or request.mem_per_cpu_mib is not None or _OTHER_CPUS & set(request.options):
        return None
    enough = max(1, math.ceil(most - _NOISE_CPUS))
    if enough > asked / 2 or asked - enough < _GAIN_CPUS:
        return None
    return f"{most:.1f} of {asked} CPUs", f"cpus_per_task={enough}"


def _of_time(request: JobRequest, uses: Sequence[Use]) -> _Said | None:
    most, asked = _most([use.elapsed_seconds for use in uses]), request.time_limit_seconds
    if most is None or not asked:
        return None
    enough = round_limit_seconds(most * _TIME_ROOM)
    if enough > asked / 4 or asked - enough < _GAIN_SECONDS:
        return None
    return f"{duration_words(most)} of {duration_words(asked)}", f'time_limit="{format_time_limit(enough)}"'


def round_memory_mib(mib: float) -> int:
    """The next amount that a person would write: 256, 512 MiB, 1, 2, 3, 4, 6, 8, 12, 16 GiB ..."""
    size = _LEAST_MIB
    while size < mib:
        if size >= 2048 and size * 3 // 2 >= mib:
            return size * 3 // 2
        size *= 2
    return size


def round_limit_seconds(seconds: float) -> int:
    """The next limit that a person would write: 15, 30 minutes, 1, 2, 4, 8 hours ..."""
    limit = _LEAST_LIMIT_SECONDS
    while limit < seconds:
        limit *= 2
    return limit
