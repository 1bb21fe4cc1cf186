"""`launch.json`: which piece of work an attempt is, and of what. No secrets: digests stand for content."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from dagster_slurm.process_identity import ProcessIdentity
from dagster_slurm.run_directory import PROTOCOL_VERSION
from dagster_slurm.slurm.efficiency import Figures, parse_samples
from dagster_slurm.text import counted

DIGESTS = {
    "payload": "the payload",
    "options": "what is asked of Slurm",
    "environment": "the environment",
    "inputs": "what it reads as inputs",
    "files": "one of `extra_files`",
    "extras": "`extras`",
    "variables": "`extra_env`",
    "launcher": "the launcher",
}
"""What tells one deploy from another: the names of the digests, and what each stands for."""
_NODE = re.compile(r"([^:]+):([a-z]+):(\d{1,18}|-):(\d{1,18}|-):(\d{1,18}|-)", re.ASCII)

_FIGURE = re.compile(r"([a-z_]+)=([^\s=]{1,200})", re.ASCII)
_WHOLE = re.compile(r"\d{1,18}", re.ASCII)
_SECONDS = re.compile(r"\d{1,12}(?:\.\d{0,9})?", re.ASCII)
_CPUS = re.compile(r"(\d{1,9})(?:\(x(\d{1,9})\))?", re.ASCII)


@dataclass(frozen=True)
class Description:
    """What the file tells; what is not known is empty.

    Args:
        origin_run_id: The run in which it was first asked for.
        run_id: The run that began this attempt.
        job: The name of that run's Dagster job.
        step_key: The step.
        partition_keys: The partition keys.
        call: Name or ordinal of the call within the step.
        assets: The asset keys.
        process: The process that submitted it.
        environment_path: What its payload runs in, so that `dagster-slurm env prune` leaves it.
        elements: The partitions of a job array, by the number of the task; or the assets of a heterogeneous job.
        earlier: How each of them has ended before, as `job.retrying` writes it; empty if none has.
        digests: What stands for payload, options, environment and the like, by the names in `DIGESTS`.
        is_hetjob: Whether its elements are components of a heterogeneous job.
        session: Of the allocation of a session, its shape in words.
    """

    origin_run_id: str = ""
    run_id: str = ""
    job: str = ""
    step_key: str = ""
    partition_keys: tuple[str, ...] = ()
    call: str = ""
    assets: tuple[str, ...] = ()
    process: ProcessIdentity | None = None
    environment_path: str = ""
    elements: tuple[str, ...] = ()
    earlier: tuple[tuple[object, ...], ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    is_hetjob: bool = False
    session: str = ""

    @property
    def components(self) -> int:
        """Of how many components its job is; 0 for what is no heterogeneous job."""
        return len(self.elements) if self.is_hetjob else 0

    def to_json(self) -> str:
        """As one line."""
        values = {
            "protocol": PROTOCOL_VERSION,
            "origin_run_id": self.origin_run_id,
            "run_id": self.run_id or None,
            "job": self.job or None,
            "step_key": self.step_key,
            "partition_keys": self.partition_keys,
            "call": self.call,
            "assets": self.assets,
            "process": _told(self.process) if self.process else None,
            "environment_path": self.environment_path or None,
            **({"session": self.session} if self.session else {}),
        }
        of_array = {"elements": self.elements, "earlier": self.earlier, "hetjob": self.is_hetjob}
        return json.dumps({**values, **{name: each for name, each in of_array.items() if each}, **self.digests})

    @classmethod
    def from_json(cls, text: str) -> Description:
        """What `to_json` of any release wrote; what is missing, or not of the kind that it should be, is left empty."""
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(told, Mapping):
            return cls()
        return cls(
            _text(told.get("origin_run_id")),
            _text(told.get("run_id")),
            _text(told.get("job")),
            _text(told.get("step_key")),
            _texts(told.get("partition_keys")),
            _text(told.get("call")),
            _texts(told.get("assets")),
            _process(told.get("process")),
            _text(told.get("environment_path")),
            _all_texts(told.get("elements")),
            _lists(told.get("earlier")),
            {name: _text(told[name]) for name in DIGESTS if name in told},
            told.get("hetjob") is True,
            _text(told.get("session")),
        )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _all_texts(value: object) -> tuple[str, ...]:
    """Where the place of each has a meaning: all of them, or none."""
    found = _texts(value)
    return found if isinstance(value, list) and len(found) == len(value) else ()


def _lists(value: object) -> tuple[tuple[object, ...], ...]:
    found = tuple(tuple(each) for each in value if isinstance(each, list)) if isinstance(value, list) else ()
    return found if isinstance(value, list) and len(found) == len(value) else ()


def _told(process: ProcessIdentity) -> dict[str, object]:
    """Without what an older release has not noted."""
    return {name: value for name, value in asdict(process).items() if value != "" or name != "machine"}


def _process(value: object) -> ProcessIdentity | None:
    try:
        return ProcessIdentity.from_mapping(value)
    except ValueError:
        return None


@dataclass(frozen=True)
class StartMark:
    """The batch script took the gate and starts its payload.

    Args:
        job_id: The job's id.
        restart: How often it was requeued before.
        at_epoch_seconds: When, by the node's clock.
        node: The node that the batch script runs on.
        node_list: All nodes of the job, in Slurm's compact form; empty if the line does not tell.
        step: Of a step of a session, Slurm's number of it.
    """

    job_id: str
    restart: int
    at_epoch_seconds: float
    node: str
    node_list: str = ""
    step: str = ""

    @property
    def nodes(self) -> str:
        """All nodes, as far as the line tells."""
        return self.node_list or self.node


@dataclass(frozen=True)
class NodeEnd:
    """How the part of a payload on one node has ended, as its launcher has it.

    Args:
        name: The node.
        cause: `stopped`: as it was to; `died`: before the payload did; `lost`: there is no word of its end.
        peak_bytes: The most memory that the job's control group there has had at once; None if it does not tell.
        cpu_seconds: The CPU time of that group; None if it does not tell.
        killed: How many processes the kernel has killed there for want of memory.
    """

    name: str
    cause: str
    peak_bytes: int | None = None
    cpu_seconds: float | None = None
    killed: int = 0

    @property
    def trouble(self) -> str:
        """What was wrong there, in words; empty for nothing."""
        said = []
        if self.cause == "lost":
            said.append("was lost")
        elif self.cause == "died":
            said.append("ended its part before the payload did")
        if self.killed:
            said.append(f"had {counted(self.killed, 'process')} killed for want of memory")
        return f"node {self.name} {' and '.join(said)}" if said else ""


@dataclass(frozen=True)
class EndMark:
    """The batch script is about to end. A requeue writes one too, SIGKILL none; see `is_proof`.

    Args:
        job_id: The job's id.
        restart: How often it was requeued before.
        exit_code: The payload's, or what its launcher has made of it.
        at_epoch_seconds: When, by the node's clock.
        bytes_of: How long stdout, stderr and messages are.
        nodes: How each node has ended; empty where the launcher does not look.
        figures: What it tells besides.
    """

    job_id: str
    restart: int
    exit_code: int
    at_epoch_seconds: float
    bytes_of: dict[str, int]
    nodes: tuple[NodeEnd, ...] = ()
    figures: Figures = field(default_factory=Figures)

    @property
    def is_proof(self) -> bool:
        """Whether Slurm can know of nothing that went wrong.

        The payload has succeeded, and was not told to end, which is how Slurm cancels, preempts and requeues; none of
        its processes was killed for want of memory; and there was one node, or there is an end of each. A job that is
        requeued after this line ends at its start: `batch.sh` finds it there.
        """
        figures = self.figures
        is_whole = figures.nodes == 1 or (bool(self.nodes) and all(node.cause != "lost" for node in self.nodes))
        return self.exit_code == 0 and self.restart == 0 and not figures.told and figures.killed == 0 and is_whole


GIVEN_BACK = 75
"""With what status a dispatcher gives a step back that waits: it is to go on in another allocation."""


@dataclass(frozen=True)
class OverMark:
    """The dispatcher of a session says that a step has left its queue: its `srun` has ended, or it never begins.

    Args:
        job_id: The step's id.
        status: That of its srun, or `GIVEN_BACK`.
        at_epoch_seconds: When, by the clock of the dispatcher's node.
    """

    job_id: str
    status: int
    at_epoch_seconds: float


Mark = StartMark | EndMark | OverMark


def end_mark_of(marks: Sequence[Mark]) -> EndMark | None:
    """The end line of the newest incarnation; None if that has none."""
    last = next((mark for mark in reversed(marks) if not isinstance(mark, OverMark)), None)
    return last if isinstance(last, EndMark) else None


def parse_marks(text: str) -> tuple[tuple[Mark, ...], str]:
    """The marks of every whole line, and what is left of a line still being written.

    Lines of another form are passed over: a newer release may write more of them.
    """
    *lines, rest = text.split("\n")
    return tuple(filter(None, map(_parse_line, lines))), rest


def _parse_line(line: str) -> Mark | None:
    words = line.split(" ")
    try:
        if words[0] == "start":
            job_id, restart, at, node = words[1:5]
            step = "".join(words[6:7])
            return StartMark(
                job_id, int(restart), float(at), node, "".join(words[5:6]), step if step.isdecimal() else ""
            )
        if words[0] == "over":
            job_id, _, status, at = words[1:5]
            return OverMark(job_id, int(status), float(at))
        if words[0] == "end":
            job_id, restart, code, at, *sizes = words[1:8]
            names = ("stdout", "stderr", "messages")
            bytes_of = dict(zip(names, map(int, sizes), strict=True))
            more = words[8:]
            return EndMark(
                job_id, int(restart), int(code), float(at), bytes_of, _parse_nodes(more), _parse_figures(more)
            )
    except ValueError:
        return None
    return None


def _parse_nodes(words: Sequence[str]) -> tuple[NodeEnd, ...]:
    """`NAME:CAUSE:PEAK_BYTES:CPU_MICROSECONDS:KILLED` for each node, `-` for what is not known."""
    nodes = []
    for found in filter(None, map(_NODE.fullmatch, words)):
        peak, cpu, killed = (None if figure == "-" else int(figure) for figure in found.groups()[2:])
        nodes.append(NodeEnd(found[1], found[2], peak, None if cpu is None else cpu / 1e6, killed or 0))
    return tuple(nodes)


def _parse_figures(words: Sequence[str]) -> Figures:
    """`NAME=VALUE` for each that is known; what a newer release tells besides is passed over."""
    told = {found[1]: found[2] for found in filter(None, map(_FIGURE.fullmatch, words))}
    whole = {name: int(value) for name, value in told.items() if _WHOLE.fullmatch(value)}
    cpu = whole.get("cpu")
    return Figures(
        _seconds(told.get("submitted")),
        _seconds(told.get("started")),
        told.get("told", ""),
        whole.get("nodes"),
        _cpus(told.get("cpus", "")),
        whole.get("gpus"),
        whole.get("mem_mib"),
        whole.get("memory"),
        None if cpu is None else cpu / 1e6,
        whole.get("killed"),
        parse_samples("".join(word.removeprefix("usage=") for word in words if word.startswith("usage="))),
    )


def _seconds(text: str | None) -> float | None:
    return float(text) if text and _SECONDS.fullmatch(text) else None


def _cpus(text: str) -> int | None:
    """All of SLURM_JOB_CPUS_PER_NODE: "72(x2),36" are 180 (sbatch(1), OUTPUT ENVIRONMENT VARIABLES)."""
    parts = [_CPUS.fullmatch(part) for part in text.split(",")]
    counts = [int(part[1]) * int(part[2] or 1) for part in parts if part]
    return sum(counts) if len(counts) == len(parts) else None
