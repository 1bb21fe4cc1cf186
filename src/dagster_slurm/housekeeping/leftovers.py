"""What is left of pieces of work: what may go and why, how it is removed, and what is printed of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import READABLE_PROTOCOLS
from dagster_slurm.cluster.records import LaunchRecord, Listing
from dagster_slurm.errors import TransportError
from dagster_slurm.housekeeping.jobs_table import RunStanding, Word, WordOf
from dagster_slurm.housekeeping.listed_jobs import Fate, Piece, SeenJob, Snapshot, end_of, fate_of, pieces_of
from dagster_slurm.housekeeping.tables import aligned, without_long_ids, wrapped
from dagster_slurm.text import duration_words, size_words
from dagster_slurm.transport.base import reading, whole_number

HALF_MADE_SECONDS = 86400.0
"""An upload to which nobody has written for a day is dead; `clean` looks at the same."""


@dataclass(frozen=True)
class Facts:
    """What is known of a piece of work.

    Args:
        unreadable: Why its directory cannot be judged; empty if it can.
        is_uploading: Whether something is just being sent there.
        live_jobs: Its jobs in the queue, in words.
        fate: What became of its job.
        has_checkpoint: Whether the job has left something from which the next one would go on.
        run: What Dagster's records say.
        run_id: The run to name.
        idle_seconds: For how long nothing has changed.
    """

    unreadable: str = ""
    is_uploading: bool = False
    live_jobs: Sequence[str] = ()
    fate: Fate = Fate.ENDED
    has_checkpoint: bool = False
    run: RunStanding = RunStanding.OVER
    run_id: str = ""
    idle_seconds: float = 0.0


@dataclass(frozen=True)
class Terms:
    """What the user has asked for.

    Args:
        older_than_seconds: What has changed since is kept, unless its result was collected.
        everything: Whether results that nobody collected, and what Dagster does not know, are removed as well.
        has_records: Whether there are records of Dagster to look at.
    """

    older_than_seconds: float = 3 * 86400.0
    everything: bool = False
    has_records: bool = True


@dataclass(frozen=True)
class Decision:
    """What is to become of something.

    Args:
        removed: Whether it is to be removed.
        reason: Why, or why not.
    """

    removed: bool
    reason: str


def decide(facts: Facts, terms: Terms) -> Decision:
    """Keep or remove a piece of work. Whatever is not known for certain keeps it."""
    if facts.unreadable:
        return _keep(facts.unreadable)
    if facts.live_jobs:
        return _keep(", ".join(facts.live_jobs))
    if facts.is_uploading:
        return _keep("something is being uploaded")
    if facts.run is RunStanding.SUCCEEDED:
        return _remove("its step has succeeded")
    if facts.run is RunStanding.IN_PROGRESS:
        return _keep(
            f"run {facts.run_id} is in progress; if its processes have died, `dagster-slurm reconcile` finishes it"
        )
    why, needs_all = _why(facts, terms)
    if needs_all and not terms.everything:
        return _keep(f"{why}; {_advice(facts)}")
    if facts.idle_seconds < terms.older_than_seconds:
        return _keep(f"{why}; younger than {duration_words(terms.older_than_seconds)} (--older-than)")
    return _remove(f"{why} (--all)" if needs_all else why)


def decide_half_made(idle_seconds: float) -> Decision:
    """Keep or remove what an upload has left half-made, or a directory with nothing in it."""
    if idle_seconds < HALF_MADE_SECONDS:
        return _keep(f"an upload may go on: last written to {duration_words(idle_seconds)} ago")
    return _remove(f"left by an upload that ended {duration_words(idle_seconds)} ago")


def _why(facts: Facts, terms: Terms) -> tuple[str, bool]:
    """What is the matter with a piece of work that nobody works on, and whether it takes --all to remove it."""
    is_unknown = facts.run is RunStanding.UNKNOWN
    if facts.fate is Fate.COMPLETED:
        return "its result was never collected", True
    if facts.fate is Fate.NOT_KNOWN:
        return "it is not known how its job ended, nor whether there is a result", True
    if facts.has_checkpoint:
        return "its job has left a checkpoint, from which the next one goes on", True
    job = "it had no job" if facts.fate is Fate.NONE else "its job ended without success"
    if not is_unknown:
        return f"run {facts.run_id} is over, and {job}", False
    if not terms.has_records:
        return f"{job}, and without DAGSTER_HOME nothing is known of run {facts.run_id}", True
    return f"{job}, and Dagster does not know run {facts.run_id}", True


def _advice(facts: Facts) -> str:
    if facts.run is RunStanding.UNKNOWN:
        return "--all removes it"
    return f"re-execute run {facts.run_id} from failure, or --all"


def _keep(reason: str) -> Decision:
    return Decision(removed=False, reason=reason)


def _remove(reason: str) -> Decision:
    return Decision(removed=True, reason=reason)


_REMOVAL_SECONDS = 3600.0


def sizes_kib(cluster: SlurmCluster, paths: Sequence[str]) -> Mapping[str, int]:
    """What directories take up, in KiB, by their path below `remote_base`; what is not there is left out."""
    if not paths:
        return {}
    with reading("The sizes of launches", host=cluster.host):
        rows = (line.split("\t", 1) for line in _run(cluster, "sizes", paths).splitlines())
        return {path: whole_number(kib) for kib, path in rows}


def remove(cluster: SlurmCluster, orders: Sequence[str]) -> tuple[str, ...]:
    """Remove what is still as it was listed.

    Args:
        cluster: The cluster.
        orders: Lines for `clean`.

    Returns:
        Those of them that were not carried out, without what follows the path.

    Raises:
        TransportError: The connection broke; what was removed is gone, and the rest can be removed again.
    """
    if not orders:
        return ()
    rows = (line.partition(" ") for line in _run(cluster, "clean", orders).splitlines())
    removed = {order for outcome, _, order in rows if outcome == "removed"}
    asked = (" ".join(order.split(" ")[:2]) for order in orders)
    return tuple(order for order in asked if order not in removed)


def _run(cluster: SlurmCluster, name: str, lines: Sequence[str]) -> str:
    stdin = "".join(f"{line}\n" for line in lines).encode()
    answer = cluster.script(name, (cluster.base(),), stdin=stdin, timeout_seconds=_REMOVAL_SECONDS)
    if answer.returncode:
        raise TransportError(f"{name}: {answer.reason}", host=cluster.host)
    return answer.text


DANGLING = Decision(removed=True, reason="a link to what is not there any more")


@dataclass(frozen=True)
class Leftover:
    """Something that lies there.

    Args:
        paths: Where, below `remote_base`; several if they share a job.
        orders: What removes it, as lines for `clean`.
        decision: What is to become of it.
        kib: What it takes up, if that was measured.
    """

    paths: tuple[str, ...]
    orders: tuple[str, ...]
    decision: Decision
    kib: int | None = None


def leftovers(seen: Snapshot, word_of: WordOf, terms: Terms) -> list[Leftover]:
    """Everything that lies there, with what is to become of it. Pure, but for what `word_of` asks."""
    jobs = _by_attempt(seen.jobs)
    pieces = [_of_piece(piece, seen, jobs, word_of, terms) for piece in pieces_of(seen.listing)]
    going = {path for piece in pieces if piece.decision.removed for path in piece.paths}
    return [*pieces, *_half_made(seen.listing, going), *_empty(seen.listing), *_dangling(seen.listing)]


def is_open(job: SeenJob) -> bool:
    """Whether only sacct can tell how a job ended."""
    return job.attempt is not None and job.queued is None and end_of(job) is None


def measured(found: Sequence[Leftover], sizes_kib: Callable[[Sequence[str]], Mapping[str, int]]) -> list[Leftover]:
    """The same, with what each takes up; all are measured in one step."""
    sizes = sizes_kib([path for each in found for path in each.paths])
    return [replace(each, kib=sum(sizes.get(path, 0) for path in each.paths)) for each in found]


def _of_piece(piece: Piece, seen: Snapshot, jobs: dict[str, list[SeenJob]], word_of: WordOf, terms: Terms) -> Leftover:
    own = [job for attempt in piece.attempts for job in jobs.get(attempt.directory.relative, [])]
    word = word_of(piece.origin_run_ids, piece.description.step_key)
    return Leftover(
        tuple(f"runs/{launch.path}" for launch in piece.launches),
        tuple(f"launch {launch.path} {launch.state}" for launch in piece.launches),
        decide(_facts(piece, own, seen, word), terms),
    )


def _facts(piece: Piece, jobs: Sequence[SeenJob], seen: Snapshot, word: Word) -> Facts:
    fate = _worst([fate_of(job, seen.accounting) for job in jobs])
    if piece.description.session and fate is not Fate.LIVE:
        # The allocation of a session has no result.
        fate = Fate.ENDED
    return Facts(
        unreadable=_unreadable(piece),
        is_uploading=any(_is_uploading(launch, seen.listing.now) for launch in piece.launches),
        live_jobs=tuple(f"job {job.job_id} is {job.queued.entry.state}" for job in jobs if job.is_live and job.queued),
        fate=fate,
        has_checkpoint=any(launch.checkpoint for launch in piece.launches),
        run=word.standing,
        run_id=word.run_id,
        idle_seconds=_idle_seconds(piece, seen.listing.now, word, fate),
    )


def _unreadable(piece: Piece) -> str:
    known = {str(version) for version in READABLE_PROTOCOLS}
    other = [attempt.protocol for attempt in piece.attempts if attempt.protocol not in known]
    foreign = [name for launch in piece.launches for name in launch.unknown]
    if foreign:
        return f"it holds {foreign[0]!r}, which this release does not know; remove it by hand"
    if other:
        version = f"is of protocol version {other[0]}" if other[0] else "has no protocol version"
        return f"it {version}, which this release does not know; let the release that made it remove it"
    return ""


def _is_uploading(launch: LaunchRecord, now: float) -> bool:
    return any(not decide_half_made(now - at).removed for at in launch.half_made.values())


def _worst(fates: Sequence[Fate]) -> Fate:
    """What counts if there were several jobs: the one whose loss would be the greatest."""
    order = (Fate.LIVE, Fate.COMPLETED, Fate.NOT_KNOWN, Fate.ENDED)
    return next((fate for fate in order if fate in fates), Fate.NONE)


def _idle_seconds(piece: Piece, now: float, word: Word, fate: Fate) -> float:
    changed_at = max(launch.changed_at for launch in piece.launches)
    if fate is Fate.NOT_KNOWN:
        # A job of another cluster with the same home directories touches its run's directory while it runs.
        changed_at = max(changed_at, *(launch.run_touched_at for launch in piece.launches))
    idle = max(0.0, now - changed_at)
    return idle if word.over_seconds is None else min(idle, word.over_seconds)


def _by_attempt(jobs: Sequence[SeenJob]) -> dict[str, list[SeenJob]]:
    found: dict[str, list[SeenJob]] = {}
    for job in jobs:
        if job.attempt is not None:
            found.setdefault(job.attempt.directory.relative, []).append(job)
    return found


def _half_made(listing: Listing, going: Set[str]) -> Iterator[Leftover]:
    """Uploads in launches that stay; the others go with their launch."""
    for launch in listing.launches:
        for name, at in launch.half_made.items() if f"runs/{launch.path}" not in going else ():
            path = f"{launch.path}/{name}"
            yield Leftover((f"runs/{path}",), (f"part {path}",), decide_half_made(listing.now - at))


def _empty(listing: Listing) -> Iterator[Leftover]:
    launches = {launch.path: launch.changed_at for launch in listing.launches if launch.is_empty}
    for path, at in {**launches, **listing.empty_runs}.items():
        yield Leftover((f"runs/{path}",), (f"empty {path}",), decide_half_made(listing.now - at))


def _dangling(listing: Listing) -> Iterator[Leftover]:
    for name in listing.dangling_links:
        yield Leftover((f"assets/{name}",), (f"link {name}",), DANGLING)


def lines_of(found: Sequence[Leftover], done: Mapping[Leftover, bool] | None, width: int | None = None) -> list[str]:
    """A line for each; where they would be too long, with shorter ids and the reason below.

    Args:
        found: What there is.
        done: Of what was to be removed, whether it is gone; None if nothing was to be done yet.
        width: How long a line may be; None for whatever is needed.
    """
    rows = [
        (
            _verb(each, done),
            "-" if each.kib is None else size_words(each.kib << 10),
            " ".join(each.paths),
            each.decision.reason,
        )
        for each in found
    ]
    lines = aligned(rows)
    if width is None or max(map(len, lines), default=0) <= width:
        return lines
    heads = aligned([(verb, kib, without_long_ids(paths)) for verb, kib, paths, _ in rows])
    indent = 4
    reasons = [wrapped(without_long_ids(reason), width, indent=indent) for *_, reason in rows]
    return [
        line
        for head, reason in zip(heads, reasons, strict=True)
        for line in (*wrapped(head, width, hanging=indent), *reason)
    ]


def summary(found: Sequence[Leftover], done: Mapping[Leftover, bool] | None) -> str:
    """The last line."""
    removable = [each for each in found if each.decision.removed]
    kept = len(found) - len(removable)
    if done is None:
        told = f"{len(removable)} to remove ({_total(removable)}), {kept} to keep."
        return f"{told} Nothing was removed; --yes does it." if removable else told
    gone = [each for each in removable if done[each]]
    changed = len(removable) - len(gone)
    told = f"{len(gone)} removed ({_total(gone)}), {kept + changed} kept."
    return f"{told} {changed} could not be removed, or have changed meanwhile." if changed else told


def as_json(found: Sequence[Leftover], done: Mapping[Leftover, bool] | None, *, base: str) -> dict[str, Any]:
    """The same for programs."""
    rows = [
        {
            "paths": [f"{base}/{path}" for path in each.paths],
            "action": _verb(each, done),
            "reason": each.decision.reason,
            "kib": each.kib,
        }
        for each in found
    ]
    return {"remote_base": base, "leftovers": rows}


def _total(found: Sequence[Leftover]) -> str:
    return size_words(sum(each.kib or 0 for each in found) << 10)


def _verb(each: Leftover, done: Mapping[Leftover, bool] | None) -> str:
    if not each.decision.removed:
        return "keep"
    if done is None:
        return "remove"
    return "removed" if done[each] else "left"
