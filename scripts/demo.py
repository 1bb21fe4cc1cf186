"""The demo: run the example on this machine, and the same assets on a real Slurm cluster on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from dagster_slurm.errors import SandboxError
from dagster_slurm.sandbox import Sandbox
from dagster_slurm_sandbox.programs import check_machine

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "lookouts"
ASSETS = ("elevations", "viewsheds", "lookouts")
# What is shown of each asset's own metadata; the rest, with the map, is in the UI.
SHOWN = ("cells", "area_km2", "hill_tops", "best_site_sees_pct", "lookouts", "seen_pct")
ACCOUNTING_SECONDS = 15
INSTANCE_SETTINGS = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"

T = TypeVar("T")
Row = Sequence[str]


@dataclass(frozen=True)
class Result:
    """One asset's materialisation: its metadata, and how long its step took, in seconds."""

    asset: str
    metadata: Mapping[str, Any]
    step_seconds: float


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def main() -> int:
    """Run the demo; 0 also where there can be no cluster, since what can be shown was shown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=ROOT / ".demo", help="DAGSTER_HOME of the demo's runs")
    home = parser.parse_args().home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(INSTANCE_SETTINGS, encoding="utf-8")
    say("Where should six fire lookouts stand to see most of a piece of Tennessee? Three assets, in two places.\n")
    try:
        demonstrate(home)
    except DemoError as error:
        say(f"\nThe demo failed: {error}")
        return 1
    return 0


def demonstrate(home: Path) -> None:
    """Both parts, or the local one and why there is no other."""
    local = {"LOOKOUTS_FILES": str(home / "files")}
    results = timed("Running the assets on this machine", lambda: materialize(home, "local", local))
    say(table(("asset", "seconds", "CPU used", "memory", "result"), (local_row(each) for each in results)))

    sandbox = Sandbox()
    try:
        check_machine()
        timed("Bringing up a Slurm cluster on this machine", lambda: sandbox.up(quiet=True))
    except SandboxError as error:
        say(f"Left out: the same assets on a Slurm cluster. {error.message}.\n{error.hint or ''}\n")
        say_how_to_open(home, "local", local)
        return
    environment = timed("Installing the payloads' Python environment on it", lambda: create_environment(sandbox))
    reach = {**sandbox.env(), "LOOKOUTS_ENVIRONMENT": environment}
    results = timed("Running the same assets as Slurm jobs, over SSH", lambda: materialize(home, "slurm", reach))
    jobs = [str(each.metadata["slurm_job_id"]) for each in results]
    nodes = nodes_of(sandbox, jobs)
    header = ("asset", "job", "node", "state", "elapsed", "queue wait", "CPU used", "memory", "result")
    say(table(header, (slurm_row(each, nodes) for each in results)))
    say_accounting(sandbox, jobs)
    say_how_to_open(home, "slurm", reach)
    say(f"The cluster is still up. Take it down with:\n\n    {command('dagster-slurm')} sandbox down\n")


def materialize(home: Path, place: str, variables: Mapping[str, str]) -> list[Result]:
    """Materialise the example's assets with Dagster's own command, in a process of its own; its output to a log file.

    Raises:
        DemoError: The run did not succeed.
    """
    log = home / f"{place}.log"
    argv = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "*"]
    argv += ["-d", str(EXAMPLE.parent), "-m", f"lookouts.{place}"]
    with log.open("w", encoding="utf-8") as file:
        environment = {**os.environ, **variables, "DAGSTER_HOME": str(home)}
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-30:])
        raise DemoError(f"`{shlex.join(argv)}` ended with status {done.returncode}; {log} ends with\n{tail}")
    return latest_results(home)


def latest_results(home: Path) -> list[Result]:
    """What the newest run materialised, in the order of `ASSETS`."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run_id = instance.get_runs(limit=1)[0].run_id
        seconds = {step.step_key: (step.end_time or 0) - (step.start_time or 0) for step in steps(instance, run_id)}
        events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    found = {
        event.asset_materialization.asset_key.to_user_string(): event.asset_materialization
        for event in events
        if event.asset_materialization
    }
    return [
        Result(asset, {name: value.value for name, value in found[asset].metadata.items()}, seconds[asset])
        for asset in ASSETS
    ]


def steps(instance: dg.DagsterInstance, run_id: str) -> Sequence[Any]:
    """The run's steps with their times."""
    return instance.get_run_step_stats(run_id)


def create_environment(sandbox: Sandbox) -> str:
    """What the payloads need, as a virtual environment on the cluster; its path there."""
    lines = (EXAMPLE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return sandbox.create_environment("lookouts", [line for line in lines if line and not line.startswith("#")])


def nodes_of(sandbox: Sandbox, jobs: Sequence[str]) -> dict[str, str]:
    """The nodes each job ran on, as the accounting has them.

    Of a job that ended a moment ago it may have the end and not yet the start, with name and partition: wait for that.
    """
    argv = ["sacct", "-X", "--noheader", "--parsable2", "--format=JobID,NodeList,Partition", "-j", ",".join(jobs)]
    give_up_at = time.monotonic() + ACCOUNTING_SECONDS
    while True:
        lines = [line.split("|") for line in sandbox.run(argv).stdout.splitlines()]
        if all(partition for _, _, partition in lines) or time.monotonic() > give_up_at:
            return {job: nodes for job, nodes, _ in lines}
        time.sleep(0.5)


def local_row(result: Result) -> Row:
    """An asset that ran here."""
    return (result.asset, f"{result.step_seconds:.1f}", *used(result.metadata), shown(result.metadata))


def slurm_row(result: Result, nodes: Mapping[str, str]) -> Row:
    """An asset that was a job."""
    metadata = result.metadata
    job = str(metadata["slurm_job_id"])
    times = figures(metadata, {"elapsed_seconds": "{:.0f} s", "queue_wait_seconds": "{:.0f} s"})
    place = (nodes.get(job, "-"), metadata["slurm_state"])
    return (result.asset, job, *place, *times, *used(metadata), shown(metadata))


def used(metadata: Mapping[str, Any]) -> Row:
    """What its payload has used."""
    return figures(metadata, {"cpu_efficiency_pct": "{:.0f} %", "max_memory_mb": "{:.0f} MiB"})


def figures(metadata: Mapping[str, Any], forms: Mapping[str, str]) -> Row:
    """Each in its form, or a dash."""
    return [form.format(metadata[name]) if name in metadata else "-" for name, form in forms.items()]


def shown(metadata: Mapping[str, Any]) -> str:
    """The figures of an asset's own that say most."""
    return ", ".join(f"{name} {metadata[name]}" for name in SHOWN if name in metadata)


def say_accounting(sandbox: Sandbox, jobs: Sequence[str]) -> None:
    """What Slurm itself says of the jobs."""
    fields = "JobID,JobName%24,User%12,Partition,State,ExitCode,Elapsed,AllocCPUS,ReqMem,NodeList%8"
    argv = ["sacct", "-X", f"--format={fields}", "-j", ",".join(jobs)]
    say(f"The same jobs in Slurm's accounting, `{shlex.join(argv)}`:\n")
    say(sandbox.run(argv).stdout)


def say_how_to_open(home: Path, place: str, variables: Mapping[str, str]) -> None:
    """Write the variables to a file, and print the command that opens the Dagster UI on these runs."""
    file = home / "env.sh"
    exported = {"DAGSTER_HOME": str(home), **variables}
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in exported.items())
    file.write_text("".join(lines), encoding="utf-8")
    say("The Dagster UI on these runs (the map is in the metadata of the asset `lookouts`):\n")
    opened = f"{command('dagster')} dev -d {shlex.quote(str(EXAMPLE.parent))} -m lookouts.{place}"
    say(f"    . {shlex.quote(str(file))} && {opened}\n")


def command(name: str) -> str:
    """A command of the virtual environment, for the shell."""
    return shlex.quote(str(Path(sys.executable).parent / name))


def table(header: Row, rows: Iterable[Row]) -> str:
    """Columns as wide as their content."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n" + "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines) + "\n"


def timed(what: str, work: Callable[[], T]) -> T:
    """Announce a long step, do it, and say how long it took."""
    print(f"{what} ...", end=" ", flush=True)
    start = time.monotonic()
    try:
        outcome = work()
    except BaseException:
        print("no", flush=True)
        raise
    print(f"{time.monotonic() - start:.0f} s", flush=True)
    return outcome


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
