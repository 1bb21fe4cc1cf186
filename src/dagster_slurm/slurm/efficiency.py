"""What a job has used: its figures, named as in the metadata of a materialisation, who tells them, and its samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from dagster_slurm.errors import SlurmOutputError
from dagster_slurm.slurm.output import AccountingRecord, AccountingStep
from dagster_slurm.slurm.quantities import parse_memory_bytes
from dagster_slurm.slurm.states import JobState

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


Metric = str | int | float | bool

_MIB = 1024**2
_OF_TRES = frozenset({"slurm_allocated_gpus", "gpu_utilization_pct", "max_gpu_memory_mb", "memory_efficiency_pct"})
_OF_THE_REQUEST = "slurm_requested_gpus"
# Slurm's own default of JobAcctGatherFrequency (slurm.conf(5)).
_SAMPLED_SECONDS = 30
_LAST_SECOND = datetime(9999, 12, 31, tzinfo=timezone.utc).timestamp()


@dataclass(frozen=True)
class NodeUsage:
    """What a job has used of one node, by its control group there.

    Args:
        node: The node.
        peak_bytes: The most memory at once, that of files and shared memory included; None if not known.
        cpu_seconds: CPU time; None if not known.
    """

    node: str
    peak_bytes: int | None
    cpu_seconds: float | None


@dataclass(frozen=True)
class Figures:
    """What an end line tells of its job besides; None for what it does not tell, as those of older releases.

    Args:
        submitted_at: When sbatch had said the job's id, by the cluster's clock, in seconds since the epoch.
        started_at: When the batch script began, by the node's clock.
        told: The signal with which Slurm told the job to end; empty for none.
        nodes: How many nodes it had.
        cpus: How many CPUs, on all of them.
        gpus: How many GPUs on the node that tells.
        mem_mib: The memory allocated on a node.
        memory_bytes: The most that the job has had at once on the node that tells, without files in memory.
        cpu_seconds: Its CPU time there.
        killed: How many of its processes the kernel has killed there for want of memory.
        samples: What it used there as time went on.
    """

    submitted_at: float | None = None
    started_at: float | None = None
    told: str = ""
    nodes: int | None = None
    cpus: int | None = None
    gpus: int | None = None
    mem_mib: int | None = None
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    killed: int | None = None
    samples: tuple[UsageSample, ...] = ()


def series(told: Figures, *, ended_at: float) -> tuple[UsageSample, ...]:
    """The samples of a job on one node, with its CPU time at its end; of several nodes they would be those of one.

    Args:
        told: What its end line tells.
        ended_at: When it was written, in seconds since the epoch.
    """
    samples, began = told.samples, told.started_at
    if told.nodes != 1 or not samples:
        return ()
    if began is None or told.cpu_seconds is None or ended_at - began <= samples[-1].at_seconds:
        return samples
    return (*samples, UsageSample(ended_at - began, told.cpu_seconds))


@dataclass(frozen=True)
class Needs:
    """What is wanted of sacct after a good end.

    Args:
        everything: Whether its record is: GPUs are accounted for there alone, and a collector may read any of it.
        figures: Figures that were asked for by name.
    """

    everything: bool = False
    figures: frozenset[str] = frozenset()

    @property
    def tres(self) -> bool:
        """Whether sacct is asked for trackable resources."""
        return self.everything or bool(self.figures & _OF_TRES)

    def after(self, told: Figures) -> bool:
        """Whether sacct may know something of that which an end line does not tell."""
        if self.everything or told.gpus:
            return True
        # A ratio is known of what has lasted.
        line = record_of_line("", told, ended_at=(told.started_at or 0.0) + 1.0) if self.figures else None
        return line is not None and not self.figures <= job_metrics(line).keys() | {_OF_THE_REQUEST}


def record_of_line(job_id: str, told: Figures, *, ended_at: float) -> AccountingRecord:
    """What sacct would know of a job that has succeeded, as far as its end line tells.

    Times are the cluster's, and those of the batch script: what Slurm does before it counts as waiting. Of several
    nodes the line has the memory and the CPU time of one, which is neither of the job.

    Args:
        job_id: The job.
        told: What its end line tells.
        ended_at: When it was written, in seconds since the epoch.
    """
    is_alone = told.nodes == 1
    began, memory = told.started_at, told.memory_bytes if is_alone else None
    allocated = {} if told.mem_mib is None or told.nodes is None else {"mem": f"{told.mem_mib * told.nodes}M"}
    gpus = {"gres/gpu": str(told.gpus)} if told.gpus else {}
    node = {} if told.nodes is None else {"node": str(told.nodes)}
    step = AccountingStep("batch", JobState.COMPLETED, 0, 0, 1, 1, memory, {}, {}, {})
    return AccountingRecord(
        job_id=job_id,
        raw_job_id=job_id,
        name="",
        state=JobState.COMPLETED,
        cancelled_by_uid=None,
        exit_code=0,
        signal=0,
        derived_exit_code=None,
        elapsed_seconds=None if began is None else round(max(0.0, ended_at - began), 2),
        submit_time=_utc(told.submitted_at),
        eligible_time=None,
        start_time=_utc(began),
        end_time=_utc(ended_at),
        node_list=None,
        node_count=told.nodes,
        cpus=told.cpus,
        alloc_tres={**node, **allocated, **gpus},
        req_tres={},
        req_mem=None,
        total_cpu_seconds=told.cpu_seconds if is_alone else None,
        max_rss_bytes=memory,
        reason=None,
        restarts=None,
        steps=(step,),
    )


def _utc(epoch_seconds: float | None) -> datetime | None:
    # What a clock cannot show is no time.
    if epoch_seconds is None or epoch_seconds > _LAST_SECOND:
        return None
    return datetime.fromtimestamp(epoch_seconds, timezone.utc)


def sampled(record: AccountingRecord) -> AccountingRecord:
    """What sacct knows of a job, without the memory of one that may have ended before Slurm's first sample of it.

    Of such a one sacct has what its first process began with, some MiB whatever it has had.

    Args:
        record: What sacct has told.
    """
    if (record.elapsed_seconds or 0) > _SAMPLED_SECONDS:
        return record
    return replace(record, max_rss_bytes=None, steps=tuple(replace(step, max_rss_bytes=None) for step in record.steps))


def job_metrics(record: AccountingRecord, usages: Sequence[NodeUsage] = ()) -> dict[str, Metric]:
    """The metrics of a job out of its accounting.

    `max_memory_mb` is the largest resident set of one task. `memory_efficiency_pct` compares memory per node:
    what the tasks of a step used together, divided by its nodes, against the allocation divided by the job's
    nodes, so that `--mem` and `--mem-per-cpu` come out alike. `queue_wait_seconds` runs from submission to
    start.

    Where every node tells what was used of it, that counts for both efficiencies in place of Slurm's samples.

    Args:
        record: What sacct knows of the job.
        usages: What each node tells; empty, or without figures, where one does not.

    Returns:
        Name to value: seconds, hours, per cent, MiB (`_mb`), counts. What sacct does not know is left out; a
        reported zero stays 0.
    """
    values: dict[str, Metric | None] = {
        "slurm_job_id": record.job_id,
        "slurm_state": record.state.value,
        "slurm_exit_code": record.exit_code,
        "elapsed_seconds": record.elapsed_seconds,
        "queue_wait_seconds": _queue_wait_seconds(record),
        "node_hours": _node_hours(record),
        "cpu_efficiency_pct": _cpu_efficiency_pct(record, usages),
        "max_memory_mb": _max_memory_mib(record),
        "memory_efficiency_pct": _memory_efficiency_pct(record, usages),
        **node_metrics(usages),
        "slurm_requested_gpus": gpu_count(record.req_tres),
        "slurm_allocated_gpus": gpu_count(record.alloc_tres),
        "gpu_utilization_pct": _largest_usage((step.usage_average for step in record.steps), "gres/gpuutil"),
        "max_gpu_memory_mb": _max_gpu_memory_mib(record),
    }
    return {name: value for name, value in values.items() if value is not None}


def gpu_accounting(record: AccountingRecord) -> dict[str, Any]:
    """What Slurm accounts for of GPUs, by the names of dagster-slurm 1.22; what is not known is left out.

    Returns:
        Whether Slurm has their use at all, their use in per cent, their memory in MiB, and what was allocated.
    """
    busiest = _largest_usage((step.usage_max for step in record.steps), "gres/gpuutil")
    values: dict[str, Any] = {
        "slurm_gpu_utilization_avg_pct": _largest_usage((step.usage_average for step in record.steps), "gres/gpuutil"),
        "slurm_gpu_utilization_max_pct": busiest,
        # Slurm is not asked which node it was; of one there is no question.
        "slurm_gpu_utilization_max_node": record.node_list if busiest is not None and record.node_count == 1 else None,
        "slurm_gpu_memory_max_mb": _max_gpu_memory_mib(record),
        "slurm_tres_accounting": dict(record.alloc_tres) or None,
    }
    known = {name: value for name, value in values.items() if value is not None}
    return {"slurm_gpu_accounting_available": busiest is not None, **known}


def node_metrics(usages: Sequence[NodeUsage]) -> dict[str, Metric]:
    """The largest and the mean figure of the nodes, and whose the largest is; none where a node does not tell."""
    values: dict[str, Metric] = {}
    for name, figures in (("memory_mb", _peaks_mib(usages)), ("cpu_seconds", _cpu_seconds(usages))):
        if figures:
            most = max(figures, key=lambda node: figures[node])
            values[f"max_node_{name}"] = round(figures[most], 2)
            values[f"mean_node_{name}"] = round(sum(figures.values()) / len(figures), 2)
            values[f"max_node_{name.partition('_')[0]}_name"] = most
    return values


def _peaks_mib(usages: Sequence[NodeUsage]) -> dict[str, float]:
    known = {each.node: each.peak_bytes / _MIB for each in usages if each.peak_bytes is not None}
    return known if len(known) == len(usages) else {}


def _cpu_seconds(usages: Sequence[NodeUsage]) -> dict[str, float]:
    known = {each.node: each.cpu_seconds for each in usages if each.cpu_seconds is not None}
    return known if len(known) == len(usages) else {}


def gpu_count(tres: Mapping[str, str]) -> int | None:
    """The number of GPUs in a list of trackable resources, None if the list is empty ("not known").

    Slurm lists the total as "gres/gpu" and each type again as "gres/gpu:a100" (slurm.conf(5),
    AccountingStorageTRES).
    """
    if not tres:
        return None
    typed = [int(value) for name, value in tres.items() if name.startswith("gres/gpu:") and value.isdecimal()]
    total = tres.get("gres/gpu", "")
    return int(total) if total.isdecimal() else sum(typed)


def _queue_wait_seconds(record: AccountingRecord) -> float | None:
    if record.submit_time is None or record.start_time is None:
        return None
    return round(max(0.0, (record.start_time - record.submit_time).total_seconds()), 2)


def _node_hours(record: AccountingRecord) -> float | None:
    if record.elapsed_seconds is None or record.node_count is None:
        return None
    return round(record.elapsed_seconds * record.node_count / 3600, 6)


def _cpu_efficiency_pct(record: AccountingRecord, usages: Sequence[NodeUsage]) -> float | None:
    available = (record.elapsed_seconds or 0) * (record.cpus or 0)
    of_nodes = _cpu_seconds(usages)
    used = sum(of_nodes.values()) if of_nodes else record.total_cpu_seconds
    return None if used is None or not available else round(100 * used / available, 2)


def _max_memory_mib(record: AccountingRecord) -> float | None:
    return None if record.max_rss_bytes is None else round(record.max_rss_bytes / _MIB, 2)


def _max_gpu_memory_mib(record: AccountingRecord) -> float | None:
    largest = _largest_usage((step.usage_max for step in record.steps), "gres/gpumem")
    return None if largest is None else round(largest / _MIB, 2)


def _memory_efficiency_pct(record: AccountingRecord, usages: Sequence[NodeUsage]) -> float | None:
    allocated = _bytes(record.alloc_tres.get("mem"))
    used = [peak * _MIB for peak in _peaks_mib(usages).values()]
    if not used:
        used = [step_bytes for step in record.steps if (step_bytes := _bytes_per_node(step)) is not None]
    if not allocated or not used:
        return None
    return round(100 * max(used) * (record.node_count or 1) / allocated, 2)


def _bytes_per_node(step: AccountingStep) -> float | None:
    if step.max_rss_bytes is None:
        return None
    together = _bytes(step.usage_total.get("mem")) or 0
    return max(step.max_rss_bytes, together / (step.node_count or 1))


def _largest_usage(usages: Iterable[Mapping[str, str]], name: str) -> float | None:
    figures = [figure for usage in usages if (figure := _bytes(usage.get(name))) is not None]
    return max(figures, default=None)


def _bytes(text: str | None) -> int | None:
    """A figure of a TRES list, None where it cannot be read: a metric is no reason to fail."""
    try:
        return parse_memory_bytes(text or "")
    except SlurmOutputError:
        return None
