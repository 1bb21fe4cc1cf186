"""What is left over on a cluster, piece by piece, with what is to become of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from dagster_slurm.cluster.claims import READABLE_PROTOCOLS
from dagster_slurm.cluster.records import LaunchRecord, Listing
from dagster_slurm.housekeeping.decision import Decision, Facts, Terms, decide, decide_half_made
from dagster_slurm.housekeeping.pieces import Piece, pieces_of
from dagster_slurm.housekeeping.seen import Fate, SeenJob, end_of, fate_of
from dagster_slurm.housekeeping.survey import Survey
from dagster_slurm.housekeeping.word import Word, WordOf

DANGLING = Decision(removed=True, reason="a link to what is not there any more")


@dataclass(frozen=True)
class Leftover:
    """Something that lies there.

    Args:
        paths: Where, below `remote_base`; several if they share a job.
        orders: What removes it, as lines for clean.sh.
        decision: What is to become of it.
        kib: What it takes up, if that was measured.
    """

    paths: tuple[str, ...]
    orders: tuple[str, ...]
    decision: Decision
    kib: int | None = None


def leftovers(seen: Survey, word_of: WordOf, terms: Terms) -> list[Leftover]:
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


def _of_piece(piece: Piece, seen: Survey, jobs: dict[str, list[SeenJob]], word_of: WordOf, terms: Terms) -> Leftover:
    own = [job for attempt in piece.attempts for job in jobs.get(attempt.directory.relative, [])]
    word = word_of(piece.origin_run_ids, piece.description.step_key)
    return Leftover(
        tuple(f"runs/{launch.path}" for launch in piece.launches),
        tuple(f"launch {launch.path} {launch.state}" for launch in piece.launches),
        decide(_facts(piece, own, seen, word), terms),
    )


def _facts(piece: Piece, jobs: Sequence[SeenJob], seen: Survey, word: Word) -> Facts:
    fate = _worst([fate_of(job, seen.accounting) for job in jobs])
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
