"""All launches that lie on a cluster: listed in one step, measured in one, and removed in one.

What the listing says was so when it was made. Nothing here decides what may be removed; what is removed is looked at
once more in the step that removes it.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import SlurmOutputError, TransportError
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm import commands, output
from dagster_slurm.slurm.output import UserQueueEntry
from dagster_slurm.transport.shell import shell_file

REVOKED = "revoked"
"""In the place of a job's id at a gate: no job can take it any more."""

_REMOVAL_SECONDS = 3600.0
# As `job.handle` names directories, and put_tree.sh, upload_begin.sh and clean.sh what is not whole.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_CHECKPOINT = "checkpoint"
_HALF_MADE = re.compile(r"(?:\d+|checkpoint)\.part\.\d+|\.dagster-slurm\.[0-9a-f.]+\.part")


@dataclass(frozen=True)
class ClaimRecord:
    """One try to submit.

    Args:
        generation: Its number in the attempt.
        job_ids: The jobs it brought, as far as sbatch or the gate tell: none, or one.
        owner: The id of the job that took the gate, `REVOKED`, or nothing.
    """

    generation: int
    job_ids: tuple[str, ...] = ()
    owner: str = ""


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt of a launch, as it lies there.

    Args:
        directory: Where it lies.
        protocol: What its file `protocol` says; empty without one.
        description: What its `launch.json` holds.
        status: What the batch script wrote to `log/status`.
        claims: The tries to submit.
    """

    directory: RunDirectory
    protocol: str = ""
    description: str = ""
    status: str = ""
    claims: tuple[ClaimRecord, ...] = ()


@dataclass(frozen=True)
class LaunchRecord:
    """The directory of one launch.

    Args:
        run: Name of the origin run's directory.
        key: Its own name.
        attempts: Those that lie in it.
        adopted: What its links to attempts of other launches point to, as `RUN/KEY/ATTEMPT`.
        half_made: Names of half-made uploads in it, and when they were last written to.
        checkpoint: Whether a payload has kept something for the next attempt; None without a directory for that.
        unknown: Names of what no release known to this one has put there.
        changed_at: When something in it last changed, by the cluster's clock.
        run_touched_at: When the directory of the run was last touched; a job that runs touches it.
        state: A digest of what a process changes that goes on with it.
    """

    run: str
    key: str
    attempts: tuple[AttemptRecord, ...] = ()
    adopted: tuple[str, ...] = ()
    half_made: Mapping[str, float] = field(default_factory=dict)
    checkpoint: bool | None = None
    unknown: tuple[str, ...] = ()
    changed_at: float = 0.0
    run_touched_at: float = 0.0
    state: str = ""

    @property
    def path(self) -> str:
        """Relative to the directory of all runs."""
        return f"{self.run}/{self.key}"

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies in it."""
        return not (self.attempts or self.adopted or self.half_made or self.unknown) and self.checkpoint is None


@dataclass(frozen=True)
class Listing:
    """What lies below a `remote_base`.

    Args:
        now: The cluster's clock, in seconds since the epoch.
        launches: The launches.
        empty_runs: Names of runs' directories with nothing in them, and when they were last touched.
        dangling_links: Names of links to assets' attempts that are not there any more.
    """

    now: float
    launches: tuple[LaunchRecord, ...] = ()
    empty_runs: Mapping[str, float] = field(default_factory=dict)
    dangling_links: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    parts: tuple[str, ...]
    is_directory: bool
    is_link: bool
    is_dangling: bool
    modified_at: float
    target: str


class Launches:
    """The launches on one cluster.

    Args:
        cluster: The cluster.
    """

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster

    def listing(self) -> Listing:
        """Everything that lies there.

        Raises:
            TransportError: The cluster could not be reached.
        """
        base = self._cluster.base()
        return parse_listing(self._cluster.script("launches.sh", (base,)).stdout, base)

    def queue(self) -> list[UserQueueEntry]:
        """All jobs of this user that Slurm's controller knows, also those that ended some minutes ago.

        Raises:
            SlurmUnavailableError: It does not answer.
        """
        answer = self._cluster.transport.command(commands.squeue_of_user())
        self._cluster.refuse("squeue --me", answer)
        return output.parse_squeue_of_user(answer.text)

    def sizes_kib(self, paths: Sequence[str]) -> Mapping[str, int]:
        """What directories take up, in KiB, by their path below `remote_base`; what is not there is left out."""
        if not paths:
            return {}
        answer = self._run("sizes.sh", paths)
        rows = (line.split("\t", 1) for line in answer.splitlines())
        return {path: int(kib) for kib, path in rows}

    def remove(self, orders: Sequence[str]) -> tuple[str, ...]:
        """Remove what is still as it was listed.

        Args:
            orders: Lines for clean.sh.

        Returns:
            Those of them that were not carried out, without what follows the path.

        Raises:
            TransportError: The connection broke; what was removed is gone, and the rest can be removed again.
        """
        if not orders:
            return ()
        rows = (line.split(" ", 1) for line in self._run("clean.sh", orders).splitlines())
        removed = {order for outcome, order in rows if outcome == "removed"}
        asked = (" ".join(order.split(" ")[:2]) for order in orders)
        return tuple(order for order in asked if order not in removed)

    def _run(self, name: str, lines: Sequence[str]) -> str:
        stdin = "".join(f"{line}\n" for line in lines).encode()
        script = shell_file("dagster_slurm.cluster_scripts", name)
        answer = self._cluster.transport.run(
            script, (self._cluster.base(),), stdin=stdin, timeout_seconds=_REMOVAL_SECONDS
        )
        if answer.returncode:
            raise TransportError(f"{name}: {answer.reason}", host=self._cluster.host)
        return answer.text


def parse_listing(data: bytes, base: str) -> Listing:
    """Take apart what launches.sh printed. Names that none of ours has are passed over."""
    head, _, rest = data.partition(b"\0")
    if not head:
        return Listing(0.0)
    names, _, contents = rest.partition(b"\0\0") if not rest.startswith(b"\0") else (b"", b"", rest[1:])
    entries = list(_entries(names))
    runs = [entry for entry in entries if entry.parts[0] == "runs" and _is_of_a_run(entry)]
    below: dict[tuple[str, ...], list[_Entry]] = {}
    for entry in runs:
        below.setdefault(entry.parts[1:3], []).append(entry)
    touched = {entry.parts[1]: entry.modified_at for entry in runs if len(entry.parts) == 2}
    files = _contents(contents)
    launches = [_launch(found, files, base, touched) for key, found in sorted(below.items()) if len(key) == 2]
    inhabited = {entry.parts[1] for entry in entries if entry.parts[0] == "runs" and len(entry.parts) > 2}
    return Listing(
        float(head),
        tuple(launches),
        {run: at for run, at in touched.items() if run not in inhabited},
        tuple(entry.parts[1] for entry in entries if entry.parts[0] == "assets" and entry.is_dangling),
    )


def _is_of_a_run(entry: _Entry) -> bool:
    """Whether it is of the directory of a run, or of a launch in one; both are directories, and no links."""
    is_named = all(map(_NAME.fullmatch, entry.parts[1:3]))
    return is_named and (entry.is_directory or len(entry.parts) > 3)


def _entries(data: bytes) -> Iterator[_Entry]:
    for record in data.split(b"\0"):
        words = record.decode("utf-8", "surrogateescape").split("\t", 4)
        if len(words) == 5:
            kind, behind, modified_at, path, target = words
            yield _Entry(tuple(path.split("/")), kind == "d", kind == "l", behind in "NL?", float(modified_at), target)


def _contents(data: bytes) -> Mapping[str, str]:
    """What each file holds, by its path; `grep` names the file in front of each line."""
    lines: dict[str, list[str]] = {}
    at = 0
    while at < len(data) and (middle := data.find(b"\0", at)) >= 0:
        end = data.find(b"\n", middle)
        end = len(data) if end < 0 else end
        path = data[at:middle].decode("utf-8", "surrogateescape")
        lines.setdefault(path, []).append(data[middle + 1 : end].decode("utf-8", "replace"))
        at = end + 1
    return {path: "".join(f"{line}\n" for line in each) for path, each in lines.items()}


def _launch(
    entries: Sequence[_Entry], files: Mapping[str, str], base: str, touched: Mapping[str, float]
) -> LaunchRecord:
    _, run, key = entries[0].parts[:3]
    own = {entry.parts[3]: entry for entry in entries if len(entry.parts) == 4}
    numbers = sorted((name for name in own if name.isdecimal()), key=int)
    half_made = {name: entry.modified_at for name, entry in own.items() if _HALF_MADE.fullmatch(name)}
    return LaunchRecord(
        run,
        key,
        tuple(
            _attempt(RunDirectory(base, run, key, int(name)), entries, files)
            for name in numbers
            if not own[name].is_link
        ),
        tuple("/".join(own[name].target.split("/")[-3:]) for name in numbers if own[name].is_link),
        half_made,
        any(entry.parts[3:4] == (_CHECKPOINT,) for entry in entries if len(entry.parts) > 4)
        if _CHECKPOINT in own
        else None,
        tuple(name for name in own if not name.isdecimal() and name not in {*half_made, _CHECKPOINT}),
        max(entry.modified_at for entry in entries),
        touched.get(run, 0.0),
        _state(entries),
    )


def _attempt(directory: RunDirectory, entries: Sequence[_Entry], files: Mapping[str, str]) -> AttemptRecord:
    root = f"runs/{directory.relative}"
    within = {entry.parts[4:]: entry for entry in entries if entry.parts[3:4] == (str(directory.attempt),)}
    generations = sorted(
        int(parts[1])
        for parts, entry in within.items()
        if len(parts) == 2 and parts[0] == "claim" and parts[1].isdecimal() and not entry.is_link
    )

    def claim(generation: int) -> ClaimRecord:
        gate = within.get(("claim", str(generation), "gate"))
        owner = gate.target if gate is not None else ""
        where = f"{root}/claim/{generation}"
        return ClaimRecord(generation, _job_ids(owner, files, where), owner)

    return AttemptRecord(
        directory,
        files.get(f"{root}/protocol", "").strip(),
        files.get(f"{root}/launch.json", "").strip(),
        files.get(f"{root}/log/status", ""),
        tuple(map(claim, generations)),
    )


def _job_ids(owner: str, files: Mapping[str, str], claim: str) -> tuple[str, ...]:
    if owner and owner != REVOKED:
        return (owner,)
    if files.get(f"{claim}/status", "").strip() != "0":
        return ()
    try:
        return (output.parse_job_id(files.get(f"{claim}/stdout", "")),)
    except SlurmOutputError:
        return ()


def _state(entries: Iterable[_Entry]) -> str:
    """The digest that `state` in clean.sh makes."""
    lines = sorted(
        f"{'/'.join(('.', *entry.parts[3:]))} {entry.target}\n".encode("utf-8", "surrogateescape")
        for entry in entries
        if len(entry.parts) == 4 or (len(entry.parts) > 4 and _is_of_a_claim(*entry.parts[3:5]))
    )
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _is_of_a_claim(attempt: str, name: str) -> bool:
    return attempt[0] in string.digits and name.startswith("claim")
