"""One job as the watcher knows it: how far its files were read, and what the witnesses said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dagster_slurm.cluster import FilePosition
from dagster_slurm.job.events import Output, Started, Subscription
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.job.lifecycle import Absence, Observation
from dagster_slurm.job.pace import Pace
from dagster_slurm.job.status_file import EndMark, StartMark, parse_marks
from dagster_slurm.run_directory import STREAMS
from dagster_slurm.slurm.output import AccountingRecord
from dagster_slurm.slurm.states import JobState


@dataclass
class WatchedJob:
    """What is known of one job. Only the watcher's thread touches it."""

    handle: JobHandle
    subscription: Subscription
    queue_pace: Pace
    confirm_pace: Pace
    accounting_pace: Pace
    queue: JobState | Absence = Absence.NOT_KNOWN
    record: AccountingRecord | None = None
    accounting_off: bool = False
    over_since: float | None = None
    end_mark: EndMark | None = None
    node: str | None = None
    restart: int = 0
    told: bool = False
    _offsets: dict[str, int] = field(default_factory=dict)
    _status_rest: str = ""
    _catching_up: bool = False

    def positions(self) -> list[FilePosition]:
        """What to ask for at the next tick; the streams only while the waiting side keeps up."""
        names = ["status"]
        if self.subscription.room_bytes:
            names += [f"{stream}.{self.restart}" for stream in STREAMS]
        directory = self.handle.directory
        return [FilePosition(directory.log_name(name), self._offsets.get(name, 0)) for name in names]

    def take(self, blocks: Mapping[str, bytes]) -> bool:
        """Take in what was read; whether anything was."""
        has_room = self.subscription.room_bytes > 0
        names = ["status", *(f"{stream}.{self.restart}" for stream in STREAMS)]
        mine = {name: blocks.get(self.handle.directory.log_name(name), b"") for name in names}
        # The streams first: what the status says of the end was written after them.
        for stream in STREAMS:
            name = f"{stream}.{self.restart}"
            if mine[name]:
                self._offsets[name] = self._offsets.get(name, 0) + len(mine[name])
                self.subscription.put(Output(stream, mine[name]))
        # More may be there than was read: the files are longer than one block, or the waiting side is behind.
        self._catching_up = any(mine[f"{stream}.{self.restart}"] for stream in STREAMS) or not has_room
        if mine["status"]:
            self._offsets["status"] = self._offsets.get("status", 0) + len(mine["status"])
            self._take_status(mine["status"].decode("utf-8", "replace"))
        return any(mine.values())

    def _take_status(self, text: str) -> None:
        marks, self._status_rest = parse_marks(self._status_rest + text)
        for mark in marks:
            # A node that was given up may write its end long after the next incarnation has started.
            if mark.job_id != self.handle.job_id or mark.restart < self.restart:
                continue
            self.restart = mark.restart
            if isinstance(mark, StartMark):
                self.node, self.end_mark = mark.node, None
                self.subscription.put(Started(mark.node, mark.restart))
            else:
                self.end_mark = mark

    def logs_complete(self) -> bool:
        """Whether everything was read that the end line counts; without one, what is there is all."""
        if self.end_mark is None:
            return True
        return all(
            self._offsets.get(f"{stream}.{self.restart}", 0) >= size for stream, size in self.end_mark.bytes_of.items()
        )

    def observation(self, now: float) -> Observation:
        """What is known, for `decide`; remembers since when the job is over."""
        seen = Observation(
            end_mark=self.end_mark,
            queue=self.queue,
            accounting=self.record.state if self.record else Absence.NOT_KNOWN,
            logs_complete=self.logs_complete(),
            accounting_off=self.accounting_off,
        )
        if not seen.is_over:
            self.over_since = None
            return seen
        if self.over_since is None or (self.end_mark and not seen.logs_complete and self._catching_up):
            # Patience is for what does not come; what is still coming is waited for.
            self.over_since = now
        return replace(seen, over_seconds=now - self.over_since)
