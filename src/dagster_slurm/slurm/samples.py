"""What a job has used as time went on: the samples of its end line, and what they tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_LONGEST = 1 << 15
_NUMBER = r"(\d{1,15}|-)"
_SAMPLE = re.compile(rf"(\d{{1,15}}):{_NUMBER}:{_NUMBER}(?::{_NUMBER}:{_NUMBER})?", re.ASCII)
# Between two looks that are close, one hundredth of a second more or less is much.
_SHORTEST_SECONDS = 0.9


@dataclass(frozen=True)
class UsageSample:
    """What a job had used of its batch script's node at one moment; None for what is not known.

    Args:
        at_seconds: When, from its start.
        cpu_seconds: Its CPU time until then.
        memory_mib: The most memory at once since the sample before, without files.
        gpu_pct: How busy its GPUs were, on average.
        gpu_memory_mib: The memory used of all its GPUs.
    """

    at_seconds: float
    cpu_seconds: float | None = None
    memory_mib: int | None = None
    gpu_pct: int | None = None
    gpu_memory_mib: int | None = None


def parse_samples(text: str) -> tuple[UsageSample, ...]:
    """The samples as `samples.sh` writes them, with commas between; what is of another form is left out.

    Where a job was started a second time under the same number, they are those of the last start.
    """
    samples: list[UsageSample] = []
    for word in text.split(",") if len(text) <= _LONGEST else ():
        found = _SAMPLE.fullmatch(word)
        if found is None:
            continue
        age, cpu, *rest = (None if figure in ("-", None) else int(figure) for figure in found.groups())
        sample = UsageSample((age or 0) / 10, None if cpu is None else cpu / 100, *rest)
        if samples and sample.at_seconds <= samples[-1].at_seconds:
            samples.clear()
        samples.append(sample)
    return tuple(samples)


@dataclass(frozen=True)
class Span:
    """What a job used between two samples.

    Args:
        begin_seconds: From its start.
        end_seconds: The same.
        cpus: How many CPUs were busy, on average.
    """

    begin_seconds: float
    end_seconds: float
    cpus: float


def cpu_spans(samples: Sequence[UsageSample]) -> tuple[Span, ...]:
    """How many CPUs were busy, from sample to sample, of about a second at least."""
    return tuple(_spans(samples))


def _spans(samples: Sequence[UsageSample]) -> Iterator[Span]:
    begin, before = 0.0, 0.0
    for each in samples:
        lasted = each.at_seconds - begin
        if each.cpu_seconds is None or lasted < _SHORTEST_SECONDS:
            continue
        # What a child has used that nobody waited for goes out of the sum.
        yield Span(begin, each.at_seconds, max(0.0, each.cpu_seconds - before) / lasted)
        begin, before = each.at_seconds, each.cpu_seconds


def sample_metrics(samples: Sequence[UsageSample]) -> dict[str, float]:
    """What the samples of a job on one node tell: the most CPUs that were busy, and of its GPUs use and memory."""
    cpus = [span.cpus for span in cpu_spans(samples)]
    busy = _mean_gpu_pct(samples)
    memory = [each.gpu_memory_mib for each in samples if each.gpu_memory_mib is not None]
    return {
        **({"max_cpus_used": round(max(cpus), 2)} if cpus else {}),
        **({} if busy is None else {"gpu_utilization_pct": round(busy, 1)}),
        **({"max_gpu_memory_mb": float(max(memory))} if memory else {}),
    }


def _mean_gpu_pct(samples: Sequence[UsageSample]) -> float | None:
    """Each counts for the time since the one before."""
    before, known, total = 0.0, 0.0, 0.0
    for each in samples:
        lasted, before = each.at_seconds - before, each.at_seconds
        if each.gpu_pct is not None:
            known, total = known + lasted, total + lasted * each.gpu_pct
    return total / known if known else None
