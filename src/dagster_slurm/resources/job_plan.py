"""What a call would do, as a value that can be printed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal

from dagster_slurm.housekeeping.tables import cut, wrapped
from dagster_slurm.text import counted, size_words

_SHOWN_FILES = 10
_LEAST_CELL = 12


@dataclass(frozen=True)
class PlannedSetting:
    """A setting that holds.

    Attributes:
        name: Its name; an option of sbatch with its dashes.
        value: What it is.
        source: Where it comes from: `call`, `launchpad`, `asset metadata`, `script`, `resource`, `launcher` or
            `built-in`.
    """

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class PlannedFile:
    """A file that the job needs.

    Attributes:
        name: Its name there.
        size_bytes: Of its content; None if that is not known.
        is_there: Whether the cluster has it already; None if nobody has looked.
    """

    name: str
    size_bytes: int | None
    is_there: bool | None


@dataclass(frozen=True)
class PlannedUpload:
    """Files of one kind.

    Attributes:
        what: `payload`, `extra files`, `inputs` or `environment`.
        files: The files.
        note: What the files do not tell.
    """

    what: str
    files: tuple[PlannedFile, ...]
    note: str = ""

    @property
    def size_bytes(self) -> int:
        """The size of all files, as far as it is known."""
        return sum(file.size_bytes or 0 for file in self.files)

    @property
    def missing(self) -> tuple[PlannedFile, ...]:
        """What would be sent; a file that nobody has looked for counts."""
        return tuple(file for file in self.files if not file.is_there)

    @property
    def missing_bytes(self) -> int:
        """The size of what would be sent, as far as it is known."""
        return sum(file.size_bytes or 0 for file in self.missing)


@dataclass(frozen=True)
class JobPlan:
    """What `compute.run` would do; as text, it is Markdown without the script.

    Attributes:
        mode: Where the payload would run.
        title: What would be run.
        host: The login node; in mode `local`, this machine.
        directory: The run directory. `RUN_ID` stands in it for the id of the run.
        script: The batch script; in mode `local`, what bash runs here.
        options: Every option of sbatch.
        settings: What else can be said in more than one place.
        uploads: What the job needs, and what of it would be sent.
        environment: What the payload runs in, and whether that has to be installed.
        variables: The names of `extra_env`; the values are not shown.
        extras: The names of the extras.
        start: When Slurm would start the job if it were submitted now, an aware time; None if that is not known.
        start_reason: Why it is not known.
        node_hours: The most that the job, or each task, may cost: its nodes for its whole walltime; None without one.
        max_node_hours: The most that is allowed, for all tasks together; None without a limit.
        tasks: How many tasks the job array of `run_partitions` has; None for a single job.
        warnings: What is worth a look.
        components: Of `run_hetjob`, what each component would be, by its asset; empty for any other call.
    """

    mode: Literal["local", "slurm"]
    title: str
    host: str
    directory: str
    script: str
    options: tuple[PlannedSetting, ...] = ()
    settings: tuple[PlannedSetting, ...] = ()
    uploads: tuple[PlannedUpload, ...] = ()
    environment: str = ""
    variables: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    start: datetime | None = None
    start_reason: str = ""
    node_hours: float | None = None
    max_node_hours: float | None = None
    tasks: int | None = None
    warnings: tuple[str, ...] = ()
    components: Mapping[str, JobPlan] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text()

    def text(self, *, script: bool = False, width: int | None = None) -> str:
        """The plan as Markdown that reads well as it stands.

        Args:
            script: Whether the script is shown as well, at the end.
            width: How long a line may be, but for those of the script; None for whatever is needed.
        """
        lines = [line for text in _lines(self) for line in _fitted(text, width)]
        return "\n".join([*lines, *(_script(self) if script else ())])

    def as_json(self) -> dict[str, Any]:
        """The plan as values of JSON; times in ISO 8601."""
        uploads = [
            {**asdict(each), "size_bytes": each.size_bytes, "missing_bytes": each.missing_bytes}
            for each in self.uploads
        ]
        start = self.start.isoformat() if self.start else None
        parts = {name: plan.as_json() for name, plan in self.components.items()}
        return {**asdict(replace(self, components={})), "uploads": uploads, "start": start, "components": parts}


@dataclass(frozen=True)
class Table:
    """A table of Markdown.

    Args:
        heading: The headings.
        rows: The rows.
        gives: The column whose words are cut where there is no room.
    """

    heading: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    gives: int


def _lines(plan: JobPlan) -> Iterator[str | Table]:
    yield from (f"# Plan: {plan.title}", "", "Nothing was uploaded, installed or submitted.", "")
    yield from _facts(plan)
    if plan.components:
        yield from _warnings(plan, "##")
        for name, part in plan.components.items():
            yield from ("", f"## {name}: {part.title}", "", *_own_facts(part), *_sections(part, "###"))
    else:
        yield from _sections(plan, "##")


def _warnings(plan: JobPlan, level: str) -> Iterator[str]:
    if plan.warnings:
        yield from ("", f"{level} Warnings", "", *(f"- {each}" for each in plan.warnings))


def _sections(plan: JobPlan, level: str) -> Iterator[str | Table]:
    yield from _warnings(plan, level)
    for heading, settings in (("Options of sbatch", plan.options), ("Other settings", plan.settings)):
        if settings:
            rows = [(each.name, each.value, each.source) for each in settings]
            yield from ("", f"{level} {heading}", "", Table(("name", "value", "from"), rows, gives=1))
    yield from ("", f"{level} Files", "", *_uploads(plan))


def _script(plan: JobPlan) -> Iterator[str]:
    heading = "Batch script" if plan.mode == "slurm" else "What is run"
    # A fence that no line of the script can close.
    if plan.script:
        yield from ("", f"## {heading}", "", "~~~~~~sh", plan.script.rstrip("\n"), "~~~~~~")
    for name, part in plan.components.items():
        yield from ("", f"## {heading} of {name}", "", "~~~~~~sh", part.script.rstrip("\n"), "~~~~~~")


def _fitted(line: str | Table, width: int | None) -> Sequence[str]:
    if isinstance(line, Table):
        return _drawn(line, width)
    return wrapped(line, width, hanging=2 if line.startswith("- ") else 0)


def _facts(plan: JobPlan) -> Iterator[str]:
    yield f"- Runs {_where(plan)}"
    if plan.mode == "slurm":
        yield f"- Start: {_start(plan)}"
    if plan.components:
        if plan.mode == "slurm":
            yield f"- Cost: {_cost(plan)}"
        yield f"- Directory: {plan.directory}"
    else:
        yield from _own_facts(plan)


def _own_facts(plan: JobPlan) -> Iterator[str]:
    if plan.mode == "slurm":
        yield f"- Cost: {_cost(plan)}"
    yield f"- Environment: {plan.environment}"
    yield f"- Directory: {plan.directory}"
    if plan.variables:
        yield f"- Variables: {', '.join(plan.variables)} (values are not shown)"
    if plan.extras:
        yield f"- Extras: {', '.join(plan.extras)}"


def _where(plan: JobPlan) -> str:
    if plan.components:
        count = len(plan.components)
        if plan.mode == "local":
            return f"on this machine, as processes side by side (components: {count})"
        return f"as a heterogeneous Slurm job (components: {count}), by {plan.host}"
    if plan.mode == "local":
        times = "" if plan.tasks is None else f", {counted(plan.tasks, 'time')}, one after the other"
        return f"on this machine, as a process{times}"
    return f"as a Slurm job{'' if plan.tasks is None else f' array (tasks: {plan.tasks})'}, by {plan.host}"


def _start(plan: JobPlan) -> str:
    if plan.start is None:
        return f"not known: {plan.start_reason}"
    return f"{plan.start.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC, by Slurm's estimate, if it were submitted now"


def _cost(plan: JobPlan) -> str:
    if plan.node_hours is None:
        return "not known, since there is no walltime"
    limit = "" if plan.max_node_hours is None else f", of {plan.max_node_hours:g} that are allowed"
    if plan.tasks is None:
        return f"at most {counted(plan.node_hours, 'node-hour', 'g')}{limit}"
    total = plan.tasks * plan.node_hours
    return f"at most {counted(total, 'node-hour', 'g')}: tasks: {plan.tasks}, of {plan.node_hours:g} each{limit}"


def _uploads(plan: JobPlan) -> Iterator[str | Table]:
    rows = [
        (
            each.what,
            str(len(each.files)),
            size_words(each.size_bytes),
            str(len(each.missing)),
            size_words(each.missing_bytes),
        )
        for each in plan.uploads
    ]
    verb = "to copy" if plan.mode == "local" else "to send"
    yield Table(("what", "files", "size", verb, "size of these"), rows, gives=0)
    for each in plan.uploads:
        if each.note or each.files:
            yield from ("", f"{each.what}: {each.note}" if each.note else f"{each.what}:")
        if each.files:
            yield from ("", *_files(each.files))


def _files(files: Sequence[PlannedFile]) -> Iterator[str]:
    for file in files[:_SHOWN_FILES]:
        there = ", is there" if file.is_there else ", not looked for" if file.is_there is None else ""
        yield f"- {file.name} ({'size not known' if file.size_bytes is None else size_words(file.size_bytes)}{there})"
    if len(files) > _SHOWN_FILES:
        yield f"- and {len(files) - _SHOWN_FILES} more"


def _drawn(table: Table, width: int | None) -> list[str]:
    cells = [table.heading, *(tuple(cell.replace("|", "\\|") for cell in row) for row in table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.heading))]
    if width is not None:
        # Of "| a | b |" three for each column, and one.
        missing = sum(widths) + 3 * len(widths) + 1 - width
        widths[table.gives] -= max(0, min(missing, widths[table.gives] - _LEAST_CELL))
    lines = [f"| {' | '.join(map(cut, row, widths))} |" for row in cells]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]
