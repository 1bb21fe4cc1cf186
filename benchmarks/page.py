"""The page docs/benchmarks.md and its plots, made from figures by pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from figures import Figures, Row
from plot import Line, chart

PLOTS = "benchmarks"
FLOOR, OURS = "sbatch", "threaded"
_HEAD = """\
# Benchmarks

Hundreds of jobs at once, and job arrays, next to what one would pick instead: all in one run, one after the other, on
one [sandbox](sandbox.md) with a node of 256 CPUs. `make bench` measures everything and writes this page. A sandbox
shares the cores of one machine among Slurm, the jobs and Dagster, so figures of a real cluster are other ones: what
counts here is how they stand to each other.
"""
_BUSY = """\
**The machine was busy with something else: these figures are for trying out, and stand for nothing.** `make bench` on a
quiet machine replaces them.
"""
# Over the minute before the start: a machine that does nothing else has a few tenths.
_QUIET_LOAD = 1.0
_JOBS = """\
Each job prints a line a second for 10 s. Here is who runs them:

| | |
|---|---|
| `sbatch` | the floor: `sbatch` for each job by a loop of the shell on the login node, then `squeue` every second |
| empty | as many assets that do nothing, with the same executor and Dagster's own storage: what any integration costs |
| `threaded_executor` | this project: an asset for each job, over SSH, see [many steps at once](executor.md) |
| the same, kept | the same with [an event log that keeps its connections](executor.md#with-hundreds-of-steps) |
| the same, Pipes | the same with the payload that the released one runs |
| `submitit` | on the login node: `map_array` of a Python function, then `result()` of each |
| released | `dagster-slurm` from PyPI with Dagster's multiprocess executor, an asset for each job, over SSH |

The payload of the released one is in Python and opens Dagster Pipes, since it waits for messages. It is measured up to
20 jobs: each one costs a process. Ten at once log in more often than OpenSSH takes by default (`MaxStartups
10:30:100`), and it has failed there; the login node of all is set to `MaxStartups 1000`.

- **wall**: from the start of the command to its end; **to the floor**: as a multiple of that of `sbatch`.
- **CPU** and **memory**: of the control side, that is of the command and all it has started, on whichever machine it
  runs; memory is the highest sum of their proportional set sizes (PSS). Slurm, sshd and the jobs are not in it.
- **logins** and **channels**: from sshd's log. On the login node none are needed.
- **RPCs**: the user's calls of the controller, from `sdiag`; one `squeue` is several.
- **log delay**: from the printing of a line on the node to its arrival in the step's compute log.
"""
_ARRAYS = """\
Each task prints a line and takes 1 s; 256 run at a time. `run_partitions` records a materialisation for each;
*empty* is a run over the same range in which nothing is done; *kept* has an event log that keeps its connections.
`submitit` starts `srun` and Python for each task and is measured up to 100: tried with 1,000 on a busy machine, the one
node did not answer `srun` in time, and tasks failed. The released `dagster-slurm` has no arrays.
"""
_OTHERS = """\
Each by itself, on the same sandbox; the programs are in `benchmarks/`. A cluster in a job has a sandbox of three nodes.
There, **up** is from the job's first line to the payload's, **down** from the payload's last to the job's, and **by
hand** is a script with the same steps. A round has every way once; **to by hand** is the median of the rounds' ratios.
"""


@dataclass(frozen=True)
class Contender:
    """How a contender is shown: its name in tables and in legends, and its colour if it is drawn."""

    name: str
    legend: str
    colour: str | None


CONTENDERS = {
    "sbatch": Contender("`sbatch`", "sbatch", "#666666"),
    "empty": Contender("empty", "", None),
    "empty-partitions": Contender("empty", "", None),
    "threaded": Contender("**`threaded_executor`**", "threaded_executor", "#0072b2"),
    "threaded-kept": Contender("the same, kept", "", None),
    "threaded-pipes": Contender("the same, Pipes", "", None),
    "submitit": Contender("`submitit`", "submitit", "#009e73"),
    "released": Contender("released", "released", "#d55e00"),
    "partitions": Contender("**`run_partitions`**", "run_partitions", "#0072b2"),
    "partitions-kept": Contender("the same, kept", "", None),
}


@dataclass(frozen=True)
class Measure:
    """A column, and perhaps a plot."""

    title: str
    value: Callable[[Row], float | None]
    digits: int = 0
    plot: str = ""
    log: bool = True


MEASURES = (
    Measure("wall, s", lambda row: row.wall_seconds, 1, "wall", log=False),
    Measure("CPU, s", lambda row: row.cpu_seconds, 1, "cpu"),
    Measure("memory, MiB", lambda row: row.memory_mib, 0, "memory"),
    Measure("processes", lambda row: row.processes),
    Measure("logins", lambda row: row.logins, 0, "logins"),
    Measure("channels", lambda row: row.channels, 0, "channels"),
    Measure("RPCs", lambda row: row.rpcs, 0, "rpcs"),
    Measure("RPCs each second", lambda row: row.rpcs / row.wall_seconds, 1),
    Measure("log delay p50, s", lambda row: row.delay_p50_seconds, 2),
    Measure("p99, s", lambda row: row.delay_p99_seconds, 2, "delay"),
)
_PLOT_TITLES = {
    "wall": "Wall time, s",
    "cpu": "CPU time of the control side, s",
    "memory": "Memory of the control side, MiB",
    "logins": "SSH logins",
    "channels": "SSH channels",
    "rpcs": "Calls of the controller",
    "delay": "Log delay, 99th percentile, s",
}
_RATIOS = MEASURES[:7]


def page(figures: Figures) -> str:
    """The text of the page."""
    facts = {"date": figures.date, **figures.circumstances, "load before": f"{figures.load_before:.1f}"}
    names = [f"{PLOTS}/{name}" for name in plots(figures)]
    parts = [
        _HEAD,
        _BUSY if figures.load_before > _QUIET_LOAD else "",
        markdown_table(["", ""], [[name, value] for name, value in facts.items()], left=2),
        f"## Many jobs at once\n\n{_JOBS}",
        ratios(figures.jobs, OURS),
        _pictures([name for name in names if "/array" not in name]),
        matrix(figures.jobs, "jobs"),
        f"## Job arrays\n\n{_ARRAYS}",
        _pictures([name for name in names if "/array" in name]),
        matrix(figures.arrays, "tasks"),
        f"## One thing at a time\n\n{_OTHERS}",
        *(f"### {table.title}\n\n{markdown_table(table.header, table.rows)}" for table in figures.others),
    ]
    return "\n".join(part for part in parts if part)


def tables(figures: Figures) -> str:
    """The tables alone, for the terminal."""
    others = [f"{table.title}\n\n{markdown_table(table.header, table.rows)}" for table in figures.others]
    parts = [ratios(figures.jobs, OURS), matrix(figures.jobs, "jobs"), matrix(figures.arrays, "tasks"), *others]
    return "\n".join(part for part in parts if part)


def matrix(rows: Sequence[Row], counted: str) -> str:
    """One line for each contender with each number."""
    if not rows:
        return ""
    floors = {row.number: row.wall_seconds for row in rows if row.contender == FLOOR and not row.failed}
    header = [counted, "with", MEASURES[0].title, "to the floor", *(each.title for each in MEASURES[1:])]
    return markdown_table(header, [_line(row, floors.get(row.number)) for row in rows], left=2)


def _line(row: Row, floor: float | None) -> list[str]:
    start = [f"{row.number:,}", CONTENDERS[row.contender].name]
    if row.failed:
        return [*start, row.failed, *[""] * len(MEASURES)]
    cells = [number(each.value(row), each.digits) for each in MEASURES]
    return [*start, cells[0], ratio(row.wall_seconds, floor), *cells[1:]]


def ratios(rows: Sequence[Row], base: str) -> str:
    """What all need as multiples of what `base` needs, for the largest number that all were measured with."""
    done = {(row.contender, row.number): row for row in rows if not row.failed}
    keys = list(dict.fromkeys(row.contender for row in rows))
    common = [n for n in {row.number for row in rows} if all((key, n) in done for key in keys)]
    if base not in keys or len(keys) == 1 or not common:
        return ""
    at = max(common)
    header = [f"{at} jobs, as multiples", *(each.title.partition(",")[0] for each in _RATIOS)]
    lines = []
    for key in keys:
        pairs = [(each.value(done[key, at]), each.value(done[base, at])) for each in _RATIOS]
        lines.append([CONTENDERS[key].name, *(ratio(value, of) for value, of in pairs)])
    return markdown_table(header, lines)


def ratio(value: float | None, of: float | None) -> str:
    """A multiple with two or three digits; a dash where there is none."""
    if value is None or not of:
        return "-"
    multiple = value / of
    return f"{multiple:,.0f}" if multiple >= 10 or not multiple else f"{multiple:.2f}"


def number(value: float | None, digits: int) -> str:
    """A figure of a table; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; all but the first columns are aligned to the right."""
    rule = [*["---"] * left, *["--:"] * (len(header) - left)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


def plots(figures: Figures) -> Mapping[str, str]:
    """The pictures, by the names of their files."""
    pictures = {}
    for prefix, rows, counted in (("jobs", figures.jobs, "jobs"), ("array", figures.arrays, "tasks of the array")):
        for measure in MEASURES:
            lines = _lines(rows, measure)
            if measure.plot and len(lines) > 1:
                title = _PLOT_TITLES[measure.plot]
                log = measure.log or prefix == "array"
                pictures[f"{prefix}-{measure.plot}.svg"] = chart(title, counted, lines, log_y=log)
    return pictures


def _lines(rows: Sequence[Row], measure: Measure) -> list[Line]:
    """The lines of a plot: who has a colour, and something to draw."""
    found = []
    for key, contender in CONTENDERS.items():
        measured = [(row.number, measure.value(row)) for row in rows if row.contender == key and not row.failed]
        points = [(float(x), y) for x, y in measured if y is not None]
        if contender.colour and any(y for _, y in points):
            found.append(Line(contender.legend, contender.colour, points))
    return found


def _pictures(names: Sequence[str]) -> str:
    """Pictures, two in a row."""
    cells = [f"![{name.rpartition('/')[2].removesuffix('.svg')}]({name})" for name in names]
    cells += [""] * (len(cells) % 2)
    pairs = [cells[at : at + 2] for at in range(0, len(cells), 2)]
    return markdown_table(["", ""], pairs, left=2) if pairs else ""
