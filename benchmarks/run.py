"""Measures everything on a sandbox cluster, side by side with what one would pick instead, and writes the page.

    make bench
    .venv/bin/python benchmarks/run.py [--only jobs,arrays,others] [--contenders A,B] [--numbers 1,10] [--sandbox NAME]
    .venv/bin/python benchmarks/run.py --against COMMIT [--pairs 5] [--case one,at_once,partitions]

A run of everything writes `benchmarks/figures.json`, `docs/benchmarks.md` and its plots. A run of a selection only
prints its tables: figures that stand side by side are of one run. `--render` writes the page again, from the figures.
With `--against`, this tree is measured beside another commit; the exit code is 1 if a limit is broken (`against.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import against
import common
import figures as figures_
import page
from contenders import ARRAYS, JOBS, Contender, Site
from figures import Figures, Row, Table

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
JOB_NUMBERS = (1, 10, 20, 50, 100, 200)
ARRAY_NUMBERS = (10, 100, 1000)
OTHERS = ("partitions", "one_asset", "log_delay", "many_lines", "at_scale", "upload", "environment", "launchers")
# OpenSSH drops logins at random while ten are under way (MaxStartups 10:30:100): the released dagster-slurm fails then.
LOGIN_NODE = ("MaxStartups 1000",)
PARTS = ("jobs", "arrays", "others")
VERSION = "from importlib.metadata import version; print(version('{}'))"


def measure(site: Site, contender: Contender, number: int) -> Row:
    """Run a contender and count what it costs."""
    wait_until_idle(site)
    before = counts(site)
    ended = contender.start(site, number)
    spent = [now - then for now, then in zip(counts(site), before, strict=True)]
    if ended.status != 0:
        print(ended.said, file=sys.stderr)
        return Row(contender.key, number, failed=f"ended with status {ended.status}")
    delays = ended.delays
    return Row(
        contender.key,
        number,
        **json.loads(ended.meter),
        logins=spent[0],
        channels=spent[1],
        rpcs=spent[2],
        delay_p50_seconds=common.median(delays) if delays else None,
        delay_p99_seconds=common.percentile(delays, 0.99) if delays else None,
    )


def counts(site: Site) -> tuple[int, int, int]:
    """Logins, channels, and calls of the controller by the user, so far."""
    return site.node.logins(), site.node.sessions_opened(), site.sandbox.rpc_counts()["total"]


def wait_until_idle(site: Site) -> None:
    """No job of the one before is left, which may have failed."""
    site.sandbox.run(["scancel", "--me"])
    while site.sandbox.run(["squeue", "--me", "--noheader"]).stdout.strip():
        time.sleep(0.5)


def matrix(site: Site, contenders: Sequence[Contender], numbers: Sequence[int]) -> list[Row]:
    """Every contender with every number that it takes, those with the same number one after the other."""
    rows = []
    for number in numbers:
        for contender in contenders:
            if contender.takes(number):
                row = measure(site, contender, number)
                print(f"{number:5} {contender.key:15} {row.failed or f'{row.wall_seconds:.1f} s'}", flush=True)
                rows.append(row)
    return rows


def others(sandbox_name: str) -> list[Table]:
    """The tables of the programs that measure one thing each."""
    tables = []
    for name in OTHERS:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, HERE / f"{name}.py"],
            env={**os.environ, common.SANDBOX_VARIABLE: sandbox_name},
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"{name}: status {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
            tables.append(Table(f"{name}: ended with status {done.returncode}", ["failed"], []))
        tables += figures_.tables_of(done.stdout)
    return tables


def circumstances(site: Site) -> dict[str, str]:
    """What the figures depend on: the class of the machine, and versions."""
    version_of = {
        "Dagster": (sys.executable, "dagster"),
        "released `dagster-slurm`": (site.released_python, "dagster-slurm"),
        "its Dagster": (site.released_python, "dagster"),
        "`submitit`": (site.submitit_python, "submitit"),
    }
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    slurm = site.sandbox.run(["sinfo", "--version"]).stdout.split()[-1]
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr.split(",")[0]
    return {
        "machine": f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.machine()}, Linux",
        "Slurm": slurm,
        "SSH": ssh.split()[0].replace("_", " "),
        "Python": platform.python_version(),
        **{name: _printed([python, "-c", VERSION.format(package)]) for name, (python, package) in version_of.items()},
    }


def _printed(argv: Sequence[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def write(measured: Figures) -> None:
    """Write the page and its plots."""
    (DOCS / page.PLOTS).mkdir(exist_ok=True)
    (DOCS / "benchmarks.md").write_text(page.page(measured), encoding="utf-8")
    for name, text in page.plots(measured).items():
        (DOCS / page.PLOTS / name).write_text(text, encoding="utf-8")


def take(arguments: argparse.Namespace) -> Figures:
    """Measure what was asked for."""
    parts = arguments.only or PARTS
    jobs = [each for each in JOBS if not arguments.contenders or each.key in arguments.contenders]
    arrays = [each for each in ARRAYS if not arguments.contenders or each.key in arguments.contenders]
    numbers = [int(word) for word in arguments.numbers]
    load_before = os.getloadavg()[0]
    with (
        common.running_sandbox(common.wide(arguments.sandbox)) as sandbox,
        sandbox.login_node(options=LOGIN_NODE) as node,
    ):
        site = Site(sandbox, node)
        site.prepare()
        return Figures(
            date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            load_before=load_before,
            circumstances=circumstances(site),
            jobs=matrix(site, jobs, numbers or JOB_NUMBERS) if "jobs" in parts else [],
            arrays=matrix(site, arrays, numbers or ARRAY_NUMBERS) if "arrays" in parts else [],
            others=others(arguments.sandbox) if "others" in parts else [],
        )


def take_against(arguments: argparse.Namespace) -> int:
    """Measure this tree beside another commit, and print; the exit code is 1 if a limit is broken."""
    cases = common.cases_of(arguments.case, against.CASES)
    with (
        common.running_sandbox(common.wide(arguments.sandbox)) as sandbox,
        sandbox.login_node(options=LOGIN_NODE) as node,
    ):
        figures = against.compare(Site(sandbox, node), arguments.against, cases, arguments.pairs, wait_until_idle)
    title = f"This tree against {arguments.against}, {arguments.pairs} pairs"
    common.print_table(title, against.COLUMNS, [against.row(*each) for each in figures])
    return 0 if all(figure.is_kept for _, figure in figures) else 1


def words(text: str) -> list[str]:
    return text.split(",")


def main() -> int:
    """Measure, print, and write if it was everything; the exit code is 1 if something has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=words, default=[], help="some of jobs, arrays, others")
    parser.add_argument("--contenders", type=words, default=[], help=", ".join(each.key for each in JOBS))
    parser.add_argument("--numbers", type=words, default=[], help="of jobs, or of tasks of an array")
    parser.add_argument("--sandbox", default="benchmarks", help="the name of the sandbox, and of its user")
    parser.add_argument("--against", metavar="COMMIT", help="measure this tree beside another commit")
    parser.add_argument("--pairs", type=int, default=against.PAIRS, help="how often each is run, with --against")
    parser.add_argument(
        "--case", type=words, default=[], help="some of one, at_once, partitions; partitions=10 is smaller"
    )
    parser.add_argument("--render", action="store_true", help="only write the page, from the figures there are")
    arguments = parser.parse_args()
    if arguments.render:
        write(figures_.from_text(figures_.FILE.read_text(encoding="utf-8")))
        return 0
    if arguments.against:
        return take_against(arguments)
    measured = take(arguments)
    print(page.tables(measured))
    if not (arguments.only or arguments.contenders or arguments.numbers):
        figures_.FILE.write_text(figures_.as_text(measured), encoding="utf-8")
        write(measured)
    failed = [row for row in (*measured.jobs, *measured.arrays) if row.failed]
    return 1 if failed or any(table.header == ["failed"] for table in measured.others) else 0


if __name__ == "__main__":
    sys.exit(main())
