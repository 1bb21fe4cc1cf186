"""How launches lie on a cluster, as values, and the parser of what look.sh prints. Pure."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dagster_slurm.cluster.description import Description, Mark, parse_marks
from dagster_slurm.errors import SlurmOutputError
from dagster_slurm.run_directory import JobHandle, RunDirectory
from dagster_slurm.slurm import output

REVOKED = "revoked"
"""In the place of a job's id at a gate: no job can take it any more."""

# As `job.handle` names directories, and `put_tree`, `upload_begin` and `clean` what is not whole.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_ATTEMPT = re.compile(r"[^/]+/[^/]+/[0-9]+")
_NUMBER = re.compile(r"[0-9]{1,9}")
_CHECKPOINT = "checkpoint"
_HALF_MADE = re.compile(r"(?:\d+|checkpoint)\.part\.\d+|\.dagster-slurm\.[0-9a-f.]+\.part")


@dataclass(frozen=True)
class SbatchAnswer:
    """How sbatch ended, and what it printed."""

    status: int
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class ClaimRecord:
    """One try to submit.

    Args:
        generation: Its number in the attempt.
        answer: What sbatch has said; None while it has said nothing.
        owner: The id of the job that took the gate, `REVOKED`, or nothing.
        made_at: When it was made, by the cluster's clock.
    """

    generation: int
    answer: SbatchAnswer | None = None
    owner: str = ""
    made_at: float = 0.0

    @property
    def job_id(self) -> str:
        """The job that it brought, as far as the gate or sbatch tell; empty without one."""
        if self.owner and self.owner != REVOKED:
            return self.owner
        if self.answer is None or self.answer.status:
            return ""
        try:
            return output.parse_job_id(self.answer.stdout)
        except SlurmOutputError:
            return ""


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt of a launch, as it lies there.

    Args:
        directory: Where it lies.
        protocol: What its file `protocol` says, `?` if it cannot be read; empty without one.
        description: What its `launch.json` tells.
        marks: What the batch script wrote to `log/status`.
        claims: The tries to submit, the newest last.
        is_closed: Whether nobody can submit in it any more; also of what is not there any more.
        outcome: How its job ended, as `Claims.close` noted it; empty without a note.
        made_at: When it was put there, by the cluster's clock.
        session: Where the allocation lies that it is a step of; None for a job.
    """

    directory: RunDirectory
    protocol: str = ""
    description: Description = field(default_factory=Description)
    marks: tuple[Mark, ...] = ()
    claims: tuple[ClaimRecord, ...] = ()
    is_closed: bool = False
    outcome: str = ""
    made_at: float = 0.0
    session: RunDirectory | None = None

    def handle(self, job_id: str) -> JobHandle:
        """A job of its newest try to submit."""
        return JobHandle(self.directory, job_id, self.generation or 0, self.description.components, self.session)

    @property
    def generation(self) -> int | None:
        """The newest try to submit in it; None if there is none."""
        return self.claims[-1].generation if self.claims else None


@dataclass(frozen=True)
class LaunchRecord:
    """The directory of one launch.

    Args:
        run: Name of the origin run's directory.
        key: Its own name.
        attempts: Those that lie in it, the newest last.
        adopted: What its links to attempts of other launches point to, as `RUN/KEY/ATTEMPT`, by their number here.
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
    adopted: Mapping[int, str] = field(default_factory=dict)
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
        newest_of_assets: What the other links of assets lead to, as `RUN/KEY/ATTEMPT`, by the name of the link.
    """

    now: float
    launches: tuple[LaunchRecord, ...] = ()
    empty_runs: Mapping[str, float] = field(default_factory=dict)
    dangling_links: tuple[str, ...] = ()
    newest_of_assets: Mapping[str, str] = field(default_factory=dict)

    def attempts(self, launch: RunDirectory) -> dict[int, AttemptRecord]:
        """All attempts at a piece of work by their number in it, the newest last.

        One that was adopted is what lies behind the link; of one that is not there any more, nothing is known.
        """
        found = next((each for each in self.launches if (each.run, each.key) == (launch.run, launch.key)), None)
        if found is None:
            return {}
        own = {attempt.directory.attempt: attempt for attempt in found.attempts}
        adopted = {number: self._behind(target, launch.of_attempt(number)) for number, target in found.adopted.items()}
        return dict(sorted({**own, **adopted}.items()))

    def newest(self, launch: RunDirectory) -> tuple[int, AttemptRecord] | None:
        """The newest attempt at a piece of work, and its number in it; None without any."""
        attempts = self.attempts(launch)
        return next(reversed(attempts.items())) if attempts else None

    def gate_owner(self, directory: RunDirectory, generation: int) -> str:
        """The id of the job that took the gate of a try to submit, `REVOKED`, or nothing."""
        attempt = self.attempts(directory).get(directory.attempt)
        return next((claim.owner for claim in attempt.claims if claim.generation == generation), "") if attempt else ""

    def _behind(self, target: str, link: RunDirectory) -> AttemptRecord:
        there = (attempt for launch in self.launches for attempt in launch.attempts)
        return next((each for each in there if each.directory.relative == target), AttemptRecord(link, is_closed=True))


@dataclass(frozen=True)
class _Entry:
    parts: tuple[str, ...]
    is_directory: bool
    is_link: bool
    is_dangling: bool
    modified_at: float
    target: str


def parse_listing(data: bytes, base: str) -> tuple[Listing, Mapping[str, str]]:
    """Take apart what look.sh printed: what lies there, and Slurm's answers by what look.sh calls them.

    Names that none of ours has are passed over.
    """
    head, _, rest = data.partition(b"\0")
    if not head:
        return Listing(0.0), {}
    names, _, contents = rest.partition(b"\0\0") if not rest.startswith(b"\0") else (b"", b"", rest[1:])
    files = _contents(contents)
    answers = {name: text for name, text in files.items() if not name.startswith("runs/")}
    return _listing(float(head), list(_entries(names)), files, base), answers


def _listing(now: float, entries: Sequence[_Entry], files: Mapping[str, str], base: str) -> Listing:
    runs = [entry for entry in entries if entry.parts[0] == "runs" and _is_of_a_run(entry)]
    below: dict[tuple[str, ...], list[_Entry]] = {}
    for entry in runs:
        below.setdefault(entry.parts[1:3], []).append(entry)
    touched = {entry.parts[1]: entry.modified_at for entry in runs if len(entry.parts) == 2}
    launches = [_launch(found, files, base, touched) for key, found in sorted(below.items()) if len(key) == 2]
    in_runs = [entry for entry in entries if entry.parts[0] == "runs" and len(entry.parts) > 2]
    inhabited = {entry.parts[1] for entry in in_runs}
    # Of dagster-slurm 1.22, whose files lie in the run's directory itself: what is below it is no launch of ours.
    others = {entry.parts[1] for entry in in_runs if len(entry.parts) == 3 and not entry.is_directory}
    launches = [each for each in launches if each.run not in others or each.attempts or each.adopted]
    links = [entry for entry in entries if entry.parts[0] == "assets" and entry.is_link and len(entry.parts) == 2]
    ends = {link.parts[1]: _end_of(link.target) for link in links if not link.is_dangling}
    return Listing(
        now,
        tuple(launches),
        {run: at for run, at in touched.items() if run not in inhabited},
        tuple(link.parts[1] for link in links if link.is_dangling),
        {name: end for name, end in ends.items() if _ATTEMPT.fullmatch(end)},
    )


def _end_of(target: str) -> str:
    """The `RUN/KEY/ATTEMPT` to which a link leads."""
    return "/".join(target.split("/")[-3:])


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
    numbers = sorted(filter(_NUMBER.fullmatch, own), key=int)
    half_made = {name: entry.modified_at for name, entry in own.items() if _HALF_MADE.fullmatch(name)}
    within: dict[str, list[_Entry]] = {}
    for entry in entries:
        within.setdefault("/".join(entry.parts[3:4]), []).append(entry)
    return LaunchRecord(
        run,
        key,
        tuple(
            _attempt(RunDirectory(base, run, key, int(name)), within[name], files)
            for name in numbers
            if not own[name].is_link
        ),
        {int(name): _end_of(own[name].target) for name in numbers if own[name].is_link},
        half_made,
        any(len(entry.parts) > 4 for entry in within[_CHECKPOINT]) if _CHECKPOINT in own else None,
        tuple(name for name in own if name not in {*numbers, *half_made, _CHECKPOINT}),
        max(entry.modified_at for entry in entries),
        touched.get(run, 0.0),
        _state(entries),
    )


def _attempt(directory: RunDirectory, entries: Sequence[_Entry], files: Mapping[str, str]) -> AttemptRecord:
    root = f"runs/{directory.relative}"
    within = {entry.parts[4:]: entry for entry in entries}
    claims = {
        int(parts[1]): entry
        for parts, entry in within.items()
        if len(parts) == 2 and parts[0] == "claim" and _NUMBER.fullmatch(parts[1])
    }
    described = within.get(("launch.json",))
    protocol = files.get(f"{root}/protocol", "").strip() or ("?" if ("protocol",) in within else "")
    return AttemptRecord(
        directory,
        protocol,
        Description.from_json(files.get(f"{root}/launch.json", "")),
        parse_marks(files.get(f"{root}/log/status", ""))[0],
        tuple(_claim(number, entry, within, files) for number, entry in sorted(claims.items()) if not entry.is_link),
        not protocol or any(entry.is_link for entry in claims.values()),
        files.get(f"{root}/outcome.json", "").partition("\n")[0],
        described.modified_at if described else 0.0,
        _session(directory, files.get(f"{root}/session", "")),
    )


def _session(directory: RunDirectory, text: str) -> RunDirectory | None:
    try:
        return RunDirectory.from_relative(directory.base, text.partition(" ")[0]) if text else None
    except ValueError:
        return None


def _claim(
    generation: int, entry: _Entry, within: Mapping[tuple[str, ...], _Entry], files: Mapping[str, str]
) -> ClaimRecord:
    gate = within.get(("claim", str(generation), "gate"))
    status, stdout, stderr = (files.get("/".join((*entry.parts, name)), "") for name in ("status", "stdout", "stderr"))
    # The status is put there last, and the files were read after they were listed: with one that was not listed, the
    # others may have been read too soon.
    is_whole = ("claim", str(generation), "status") in within and _NUMBER.fullmatch(status.strip())
    answer = SbatchAnswer(int(status), stdout, stderr) if is_whole else None
    return ClaimRecord(generation, answer, gate.target if gate else "", entry.modified_at)


def _state(entries: Iterable[_Entry]) -> str:
    """The digest that `state` in `clean` makes."""
    lines = sorted(
        f"{'/'.join(('.', *entry.parts[3:]))} {entry.target}\n".encode("utf-8", "surrogateescape")
        for entry in entries
        if len(entry.parts) == 4 or (len(entry.parts) > 4 and _is_of_a_claim(*entry.parts[3:5]))
    )
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _is_of_a_claim(attempt: str, name: str) -> bool:
    return attempt[0] in string.digits and name.startswith("claim")
