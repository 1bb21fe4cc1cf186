"""What jobs have asked for and what they used, as Slurm's accounting has it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dagster_slurm.cluster.records import Listing
from dagster_slurm.housekeeping.idle import idle_node_hours, session_of, session_titles
from dagster_slurm.housekeeping.jobs_table import clock
from dagster_slurm.housekeeping.listed_jobs import step_of_name
from dagster_slurm.housekeeping.tables import Column, table
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.efficiency import gpu_count, job_metrics, sampled
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.output import AccountingRecord
from dagster_slurm.slurm.quantities import parse_memory_bytes
from dagster_slurm.slurm.states import JobState

_MIB = 1 << 20


@dataclass(frozen=True)
class Usage:
    """One job, one task of an array, or one component of a heterogeneous job. What is not known is empty, or None.

    Args:
        job_id: Slurm's id.
        asset: The asset, or several with commas between.
        run_id: The run in which it was asked for.
        state: Slurm's state.
        exit_code: Of its batch script.
        nodes: How many nodes it had.
        cpus: How many CPUs, on all of them.
        elapsed_seconds: For how long it ran.
        limit_seconds: For how long it might have.
        waited_seconds: From its submission to its start.
        cpu_seconds: CPU time of all its processes.
        memory_bytes: The most that a task of it has had on a node, by Slurm's samples.
        asked_bytes: The memory that it had on a node.
        node_hours: Its nodes, for as long as it ran.
        gpus: How many GPUs it had.
        idle_node_hours: Of the allocation of a session, what no step of it held; None of any other job.
    """

    job_id: str
    asset: str
    run_id: str
    state: str
    exit_code: int | None = None
    nodes: int | None = None
    cpus: int | None = None
    elapsed_seconds: float | None = None
    limit_seconds: float | None = None
    waited_seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    asked_bytes: int | None = None
    node_hours: float = 0.0
    gpus: int = 0
    idle_node_hours: float | None = None


def usages(records: Mapping[str, AccountingRecord], listing: Listing) -> list[Usage]:
    """Those of the jobs of runs, by their names or directories; jobs of the user's that are of no run are left out."""
    assets, components, sessions = _assets(listing), _components(listing), session_titles(listing)
    found = []
    for record in records.values():
        place, step = RunDirectory.from_work(record.work_directory), step_of_name(record.name)
        step = step_of_name(place.key) if place else step
        if step is not None:
            part = JobId.find(record.job_id)
            own = components.get(place.relative if place else "", ())
            number = part.component if part else None
            asset = assets.get(step) or step.replace("__", "/")
            asset = own[number] if number is not None and number < len(own) else asset
            session = session_of(place, sessions)
            usage = _usage(record, session or asset, place.run if place else "")
            found.append(replace(usage, idle_node_hours=idle_node_hours(record)) if session else usage)
    return found


def _assets(listing: Listing) -> Mapping[str, str]:
    """The assets of steps, by what names of jobs tell of these.

    Of others, Dagster has made the name by joining the parts of the asset's key with two underscores.
    """
    attempts = [attempt for launch in listing.launches for attempt in launch.attempts]
    told = ((step_of_name(each.directory.key), ",".join(each.description.assets)) for each in attempts)
    return {step: assets for step, assets in told if step and assets}


def _components(listing: Listing) -> Mapping[str, Sequence[str]]:
    """The assets of components, by the attempt's directory."""
    attempts = [attempt for launch in listing.launches for attempt in launch.attempts]
    return {each.directory.relative: each.description.elements for each in attempts if each.description.is_hetjob}


def _usage(record: AccountingRecord, asset: str, run_id: str) -> Usage:
    # Of one that still runs, sacct has what its steps have used that have ended.
    figures, has_ended = job_metrics(sampled(record)), record.state.is_terminal
    asked, nodes = _bytes(record.alloc_tres.get("mem")), record.node_count or 1
    used_pct, node_hours = figures.get("memory_efficiency_pct"), figures.get("node_hours")
    waited = figures.get("queue_wait_seconds")
    return Usage(
        record.job_id,
        asset,
        run_id,
        record.state.value,
        record.exit_code,
        record.node_count,
        record.cpus,
        record.elapsed_seconds,
        record.limit_seconds,
        waited if isinstance(waited, float) else None,
        record.total_cpu_seconds if has_ended else None,
        round(used_pct / 100 * asked / nodes) if has_ended and asked and isinstance(used_pct, float) else None,
        None if asked is None else asked // nodes,
        node_hours if isinstance(node_hours, float) else 0.0,
        gpu_count(record.alloc_tres) or 0,
    )


def _bytes(text: str | None) -> int | None:
    return parse_memory_bytes(text) if text else None


@dataclass(frozen=True)
class Sum:
    """Several jobs of one asset, in one run or in several. What is not known is empty, or None.

    Args:
        asset: The asset.
        run_id: The run; empty for several.
        states: How many of the jobs are in which state.
        node_hours: Of all together.
        cpu_hours: The CPUs that they had, for as long as they ran.
        gpu_hours: And the GPUs.
        cpu_used_pct: How much of that they used, of those of which it is known.
        asked_bytes: The most memory on a node that one had.
        memory_bytes: The most that one used there.
        limit_seconds: The longest time limit.
        elapsed_seconds: The longest that one ran.
        idle_node_hours: Of sessions, what no step held.
    """

    asset: str
    run_id: str
    states: Mapping[str, int]
    node_hours: float
    cpu_hours: float
    gpu_hours: float
    cpu_used_pct: float | None
    asked_bytes: int | None
    memory_bytes: int | None
    limit_seconds: float | None
    elapsed_seconds: float | None
    idle_node_hours: float | None

    @property
    def jobs(self) -> int:
        """How many jobs."""
        return sum(self.states.values())


def sums(found: Iterable[Usage], *, by_run: bool) -> list[Sum]:
    """The jobs of each asset, or of each asset in each run; what has cost most comes first."""
    groups: dict[tuple[str, str], list[Usage]] = {}
    for each in found:
        groups.setdefault((each.asset, each.run_id if by_run else ""), []).append(each)
    made = [_sum(asset, run_id, jobs) for (asset, run_id), jobs in groups.items()]
    return sorted(made, key=lambda each: (-each.node_hours, each.asset, each.run_id))


def _sum(asset: str, run_id: str, jobs: Sequence[Usage]) -> Sum:
    known = [each for each in jobs if each.cpu_seconds is not None]
    had = sum(map(_cpu_seconds_had, known))
    used = sum(each.cpu_seconds or 0.0 for each in known)
    idle = [each.idle_node_hours for each in jobs if each.idle_node_hours is not None]
    return Sum(
        asset,
        run_id,
        dict(Counter(each.state for each in jobs)),
        round(sum(each.node_hours for each in jobs), 6),
        round(sum(map(_cpu_seconds_had, jobs)) / 3600, 6),
        round(sum(each.gpus * (each.elapsed_seconds or 0.0) for each in jobs) / 3600, 6),
        round(100 * used / had, 2) if had else None,
        max((each.asked_bytes for each in jobs if each.asked_bytes is not None), default=None),
        max((each.memory_bytes for each in jobs if each.memory_bytes is not None), default=None),
        max((each.limit_seconds for each in jobs if each.limit_seconds is not None), default=None),
        max((each.elapsed_seconds for each in jobs if each.elapsed_seconds is not None), default=None),
        round(sum(idle), 6) if idle else None,
    )


def _cpu_seconds_had(each: Usage) -> float:
    return (each.elapsed_seconds or 0.0) * (each.cpus or 0)


COLUMNS = (
    Column("ASSET", least=8),
    Column("RUN", goes=1),
    Column("JOBS", goes=3),
    Column("ST", goes=4),
    Column("NODE_HOURS"),
    Column("IDLE", goes=1),
    Column("CPU_HOURS", goes=5),
    Column("GPU_HOURS", goes=4),
    Column("CPU%"),
    Column("MEM_USED"),
    Column("MEM_ASKED"),
    Column("TIME_USED", goes=2),
    Column("TIME_LIMIT", goes=2),
)


def lines_of(found: Iterable[Sum], width: int | None = None) -> list[str]:
    """A table of them."""
    return table(COLUMNS, [_words(each) for each in found], width)


def _words(each: Sum) -> tuple[str, ...]:
    states = ",".join(f"{count}{JobState(state).code or state}" for state, count in each.states.items())
    words = (
        each.asset,
        each.run_id.partition("-")[0],
        str(each.jobs),
        states,
        f"{each.node_hours:.2f}",
        "" if each.idle_node_hours is None else f"{each.idle_node_hours:.2f}",
        f"{each.cpu_hours:.2f}",
        f"{each.gpu_hours:.2f}" if each.gpu_hours else "",
        "" if each.cpu_used_pct is None else f"{each.cpu_used_pct:.0f}",
        _memory(each.memory_bytes),
        _memory(each.asked_bytes),
        clock(each.elapsed_seconds),
        clock(each.limit_seconds),
    )
    return tuple(word or "-" for word in words)


def _memory(count: int | None) -> str:
    """As Slurm writes it: `300M`, `1.5G`."""
    if count is None:
        return ""
    return f"{round(count / _MIB)}M" if count < 1 << 30 else f"{count / (1 << 30):.1f}G"


def text_of(each: Usage) -> list[str]:
    """One job, in the words of Slurm's seff, after what it is of."""
    state = each.state if each.exit_code is None else f"{each.state} (exit code {each.exit_code})"
    told = [
        ("Job ID", each.job_id),
        ("Asset", each.asset),
        ("Run", each.run_id),
        ("State", state),
        ("Nodes", "" if each.nodes is None else str(each.nodes)),
        ("Cores", "" if each.cpus is None else str(each.cpus)),
        ("GPUs", str(each.gpus or "")),
        ("CPU Utilized", _long(each.cpu_seconds)),
        (
            "CPU Efficiency",
            _of(each.cpu_seconds, _cpu_seconds_had(each), f"{_long(_cpu_seconds_had(each))} core-walltime"),
        ),
        ("Job Wall-clock time", _long(each.elapsed_seconds)),
        ("Time limit", _long(each.limit_seconds)),
        ("Memory Utilized", _long_memory(each.memory_bytes) or "not known, since Slurm has taken no sample of it"),
        (
            "Memory Efficiency",
            _of(each.memory_bytes, each.asked_bytes, f"{_long_memory(each.asked_bytes)} (of a node)"),
        ),
        ("Waited", _long(each.waited_seconds)),
        ("Node-hours", f"{each.node_hours:.4f}"),
        ("Idle", "" if each.idle_node_hours is None else f"{each.idle_node_hours:.4f} node-hours that no step held"),
    ]
    return [f"{name}: {value}" for name, value in told if value]


def _of(used: float | None, had: float | None, what: str) -> str:
    return "" if used is None or not had else f"{100 * used / had:.2f}% of {what}"


def _long(seconds: float | None) -> str:
    if seconds is None:
        return ""
    days, rest = divmod(int(seconds), 86400)
    text = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{text}" if days else text


def _long_memory(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / _MIB:.2f} MB" if count < 1 << 30 else f"{count / (1 << 30):.2f} GB"


def as_json(found: Iterable[Usage | Sum]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [asdict(each) for each in found]
