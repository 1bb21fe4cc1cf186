"""What one process has asked the cluster, for all processes of this user on this machine.

A board is a directory for one kind of question. In it lie the account of who asks (`desk`, read and written under
flock), the last answer (`answer`, replaced by rename), and for each process what it wants to know (`NAME.wants`) beside
a file that it holds locked while it lives (`NAME.lives`). Locks end with the process that holds them.

Times are seconds since boot, asleep or not, which all processes of a machine have in common; the era names the boot.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar

from dagster_slurm.job import turns
from dagster_slurm.job.turns import from_plain, to_plain
from dagster_slurm.process_identity import Vantage
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry

_T = TypeVar("_T")
# A question longer than this is not asked for others as well; one argument holds 128 KiB (execve(2)).
_MOST_IDS = 5000
# On macOS CLOCK_MONOTONIC is one that goes on while the machine sleeps.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def seconds_since_boot() -> float:
    """The clock that all processes of this machine share; it goes on while the machine sleeps."""
    return time.clock_gettime(_SINCE_BOOT)


def this_era() -> str:
    """Which boot of which machine it is, and which time namespace (time_namespaces(7)); empty if it cannot be told."""
    boot_id = Vantage.here().boot_id
    try:
        return boot_id and f"{boot_id} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return boot_id


@dataclass(frozen=True)
class Answer(Generic[_T]):
    """An answer of the cluster.

    Args:
        asked_at: When it was asked for, in seconds since boot: what it says was true at that moment or later.
        ids: The jobs that were asked about.
        entries: What is known of them; None where the cluster keeps no such thing.
        failure: Why there is none, where asking again may help.
    """

    asked_at: float
    ids: frozenset[str]
    entries: Mapping[str, _T] | None
    failure: str | None = None

    def is_about(self, job_id: str, *, asked_after: float) -> bool:
        """Whether it says something of a job as it is after that moment."""
        return self.asked_at >= asked_after and job_id in self.ids


class Turn(Enum):
    """What comes of wanting to ask."""

    MINE = "ask now"
    NEWS = "somebody has just asked"
    LATER = "somebody asks, or too much was asked: come back"
    STUCK = "the desk cannot be reached for too long: ask by oneself"


class AnswerBoard(Generic[_T]):
    """One kind of question, on files. Used by one thread; whatever cannot be read is as if it were not there.

    Args:
        directory: Where it lies; made if it is not there.
        kind: The class of an entry.
        rules: How often may be asked.
        clock: Seconds since boot.
        era: Of which boot.

    Every method but `age` raises OSError where the directory cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        kind: type[_T],
        *,
        rules: turns.Rules | None = None,
        clock: Callable[[], float] = seconds_since_boot,
        era: str | None = None,
    ) -> None:
        self._directory = directory
        self._kind = kind
        self._rules = rules or turns.Rules()
        self._clock = clock
        self._era = this_era() if era is None else era
        self._member = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._life: int | None = None
        self._wanted: frozenset[str] | None = None
        self._seen: tuple[int, ...] | None = None
        self._shut_since: float | None = None

    def want(self, ids: Collection[str]) -> None:
        """Let whoever asks next ask about these as well."""
        wanted = frozenset(ids)
        if self._life is None:
            self._life = self._join()
        if wanted != self._wanted:
            self._replace(f"{self._member}.wants", json.dumps(sorted(wanted)))
            self._wanted = wanted

    def leave(self) -> None:
        """Want nothing more."""
        if self._life is not None:
            os.close(self._life)
            self._life = self._wanted = None
            self._remove(self._member)

    def news(self) -> Answer[_T] | None:
        """The last answer, if it is another than at the last call."""
        version = self._version()
        if version is None or version == self._seen:
            return None
        self._seen = version
        return self._read()

    def age(self) -> float:
        """Seconds since the last question; infinite if there is none."""
        with suppress(OSError):
            return self._clock() - self._asked_at(self._told())
        return float("inf")

    def begin(self) -> Turn:
        """Take the turn to ask, if it is free."""
        with self._desk() as desk:
            if desk is None:
                return self._shut()
            self._shut_since = None
            # Somebody may have asked between a look and this moment.
            if self._version() not in (None, self._seen):
                return Turn.NEWS
            now = self._clock()
            account = self._account(desk, now)
            lives = account.asker is not None and self._lives(account.asker)
            if turns.is_taken(account, now=now, rules=self._rules, asker_lives=lives):
                return Turn.LATER
            begun = turns.begun(account, self._member, now=now, rules=self._rules)
            if begun is None:
                return Turn.LATER
            _write(desk, begun.to_json())
            return Turn.MINE

    def end(self) -> None:
        """Give the turn back."""
        for _ in range(100):
            with self._desk() as desk:
                if desk is not None:
                    account = self._account(desk, self._clock())
                    _write(desk, turns.ended(account, self._member).to_json())
                    return
            time.sleep(0.005)

    def publish(self, answer: Answer[_T]) -> None:
        """Let all know an answer, unless they know a later one."""
        if self._asked_at(self._told()) > answer.asked_at:
            return
        entries = None if answer.entries is None else {key: to_plain(value) for key, value in answer.entries.items()}
        told = {
            "era": self._era,
            "asked_at": answer.asked_at,
            "ids": sorted(answer.ids),
            "entries": entries,
            "failure": answer.failure,
        }
        self._replace("answer", json.dumps(told))
        self._seen = self._version()

    def wanted_by_others(self, own: Collection[str]) -> list[str]:
        """What the other processes want to know; what the dead have left is removed."""
        found: dict[str, None] = {}
        for file in self._directory.glob("*.lives"):
            if file.stem == self._member:
                continue
            if not self._lives(file.stem):
                self._remove(file.stem)
                continue
            found.update(dict.fromkeys(_ids_in(file.with_suffix(".wants"))))
        others = [job_id for job_id in found if job_id not in own]
        return others[: max(0, _MOST_IDS - len(own))]

    def _join(self) -> int:
        """Be known as one who lives."""
        if not self._era:
            raise OSError("this boot cannot be told from others")
        make_private(self._directory)
        # Renamed when it is locked: before, it would look like one that the dead have left.
        temporary = self._path(f"{self._member}.part")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        temporary.replace(self._path(f"{self._member}.lives"))
        return descriptor

    def _shut(self) -> Turn:
        now = self._clock()
        if self._shut_since is None:
            self._shut_since = now
        if now - self._shut_since < self._rules.patience_seconds:
            return Turn.LATER
        self._shut_since = now
        return Turn.STUCK

    @contextmanager
    def _desk(self) -> Iterator[int | None]:
        """The account's file, locked; None if another process has it, which is for an instant only, or stopped."""
        descriptor = os.open(self._path("desk"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor if try_lock(descriptor, fcntl.LOCK_EX) else None
        finally:
            os.close(descriptor)

    def _account(self, desk: int, now: float) -> turns.Account:
        text = os.pread(desk, 4096, 0).decode("utf-8", "replace")
        return turns.read_account(text, era=self._era, now=now, rules=self._rules)

    def _lives(self, member: str) -> bool:
        try:
            descriptor = os.open(self._path(f"{member}.lives"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def _version(self) -> tuple[int, ...] | None:
        try:
            found = self._path("answer").stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _told(self) -> Mapping[str, Any]:
        """What lies there as the answer; empty if it is torn."""
        try:
            told = json.loads(self._path("answer").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def _asked_at(self, told: Mapping[str, Any]) -> float:
        """When it was asked for; before all times if that was in another boot, or is no time of this one."""
        asked_at = told.get("asked_at")
        is_ours = told.get("era") == self._era and isinstance(asked_at, float) and asked_at <= self._clock()
        return float(asked_at) if is_ours and asked_at is not None else float("-inf")

    def _read(self) -> Answer[_T] | None:
        told = self._told()
        asked_at = self._asked_at(told)
        if asked_at == float("-inf"):
            return None
        try:
            entries, failure = told["entries"], told["failure"]
            if entries is not None:
                entries = {str(key): from_plain(self._kind, value) for key, value in entries.items()}
            return Answer(
                asked_at, frozenset(map(str, told["ids"])), entries, None if failure is None else str(failure)
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            # Of another release.
            return None

    def _replace(self, name: str, text: str) -> None:
        temporary = self._path(f"{self._member}.part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._path(name))

    def _remove(self, member: str) -> None:
        for suffix in ("wants", "part", "lives"):
            self._path(f"{member}.{suffix}").unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / name


@dataclass(frozen=True)
class SharedBoards:
    """The boards of one cluster.

    Args:
        queue: For squeue.
        accounting: For sacct.
    """

    queue: AnswerBoard[QueueEntry]
    accounting: AnswerBoard[AccountingRecord]

    @classmethod
    def at(cls, place: Path) -> SharedBoards:
        """Of everybody who names that place: two directories whose names begin like that."""
        return cls(
            AnswerBoard(place.with_name(f"{place.name}.queue"), QueueEntry),
            AnswerBoard(place.with_name(f"{place.name}.accounting"), AccountingRecord),
        )


def _ids_in(file: Path) -> list[str]:
    try:
        return [str(job_id) for job_id in json.loads(file.read_text(encoding="utf-8"))]
    except (FileNotFoundError, ValueError, TypeError):
        return []


def try_lock(descriptor: int, kind: int) -> bool:
    """Take a lock of flock(2), if it is free."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def make_private(directory: Path) -> None:
    """Make a directory, and the one it lies in, that nobody else can write to.

    Raises:
        OSError: It cannot be made, or is there and somebody else's.
    """
    for each in (directory.parent, directory):
        each.mkdir(mode=0o700, exist_ok=True)
        found = each.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise PermissionError(f"{each} is not a directory of this user alone")
