"""What the benchmarks share: the sandbox, a payload, runs of one asset, and a table."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import Sandbox, SandboxConfig

T = TypeVar("T")
REPETITIONS = 5
SANDBOX_VARIABLE = "BENCHMARK_SANDBOX"
SUBMISSION = "REQUEST_SUBMIT_BATCH_JOB"
"""The controller's name for the call of an `sbatch`."""


def wide(name: str) -> SandboxConfig:
    """One node with room for hundreds of jobs."""
    return SandboxConfig(name=name, user=name, nodes=1, cpus_per_node=256)


@contextmanager
def running_sandbox(config: SandboxConfig | None = None) -> Iterator[Sandbox]:
    """A sandbox cluster; brought up if it is not, and then taken down.

    Args:
        config: Which. If not given, the one that `SANDBOX_VARIABLE` names, or the default one.
    """
    name = os.environ.get(SANDBOX_VARIABLE)
    with Sandbox(config or (wide(name) if name else None)).running() as sandbox:
        yield sandbox


def ssh_of(sandbox: Sandbox) -> SSHConnectionResource:
    """The connection to the sandbox's login node; its variables are in the environment then."""
    os.environ.update(sandbox.env())
    return SSHConnectionResource.from_env()


def compute_on(sandbox: Sandbox, **fields: Any) -> ComputeResource:
    """A compute resource for the sandbox, with an environment that has Pipes."""
    return ComputeResource(
        mode="slurm",
        slurm=SlurmResource(ssh=ssh_of(sandbox), queue=SlurmQueueConfig(partition="compute", mem="500M")),
        pre_deployed_env_path=sandbox.create_environment("benchmark", ["dagster-pipes"]),
        **fields,
    )


def make_dagster_home(directory: Path, *, keeps: bool = False) -> Path:
    """A DAGSTER_HOME without telemetry, which reads a file and asks the storage for each event of each step.

    Args:
        directory: Where it is made.
        keeps: Whether the event log is the one that keeps its connections.
    """
    home = directory / "home"
    home.mkdir()
    settings: dict[str, object] = {"telemetry": {"enabled": False}}
    if keeps:
        settings["event_log_storage"] = {
            "module": "dagster_slurm",
            "class": "KeptSqliteEventLogStorage",
            "config": {"base_dir": f"{home}/history/runs"},
        }
    (home / "dagster.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return home


def payload(text: str) -> Path:
    """A Python payload with this text."""
    path = Path(tempfile.mkdtemp(prefix="benchmark-")) / "payload.py"
    path.write_text(text, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Timed:
    """One materialisation: wall time of `compute.run` alone, in seconds, and when it was called, since 1970."""

    wall_seconds: float
    called_at: float
    result: dg.ExecuteInProcessResult


def materialize(compute: ComputeResource, path: Path, instance: dg.DagsterInstance) -> Timed:
    """Materialise one asset whose payload is `path`, and time its `compute.run`."""
    walls: list[float] = []
    calls: list[float] = []

    @dg.asset
    def benchmarked(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        calls.append(time.time())
        begun = time.monotonic()
        completed = compute.run(context, path)
        walls.append(time.monotonic() - begun)
        return completed.get_materialize_result()

    result = dg.materialize([benchmarked], resources={"compute": compute}, instance=instance)
    return Timed(walls[0], calls[0], result)


def timed(function: Callable[[], object]) -> float:
    """Wall time of a call, in seconds."""
    begun = time.monotonic()
    function()
    return time.monotonic() - begun


def cases_of(words: Sequence[str], cases: Sequence[T]) -> list[T]:
    """The cases that were asked for, each as `KEY` or `KEY=NUMBER`; all, if none was.

    Args:
        words: What was asked for.
        cases: Dataclasses with `key` and `number`.

    Raises:
        ValueError: There is no such case.
    """
    known: dict[str, Any] = {getattr(case, "key"): case for case in cases}  # noqa: B009
    found = []
    for word in words:
        key, _, number = word.partition("=")
        if key not in known:
            raise ValueError(f"there is no case {key!r}; there are {', '.join(known)}")
        found.append(replace(known[key], number=int(number or known[key].number)))
    return found or list(cases)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n## {title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |")
