"""One kind of question to the cluster, asked once for all processes of this user that share the answers.

Each process notes in the shared directory what it wants to know (`NAME.wants`), in a file that it holds locked while it
lives: one that is not locked a dead process has left. Whoever is due to ask takes the turn (`desk`) if it is free, and
waits for nobody; the file of the turn counts how often all of them have asked. It asks for everybody's jobs, and
publishes the answer (`answer`) with the moment before it asked: what it says was true then, or later. The others see at
their next look that the file is another one, and believe of it what was asked after their own job's last news
(`is_about`). Who was stopped while it asked loses the turn after a while; what it says later is older than what is
known by then, and not taken. Since when all were refused, which waiting does not mend, is `refused`. Nothing relies on
the directory: where it cannot be used, each process asks by itself, as seldom.
It is asked on a thread beside, so that whoever reads the files of jobs waits for no answer of Slurm (`Beside`).
docs/adr/0011 has the reasons.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from dagster_slurm.cluster.shared import NOWHERE, SharedDirectory, Turn, give_back
from dagster_slurm.errors import SlurmError
from dagster_slurm.transport.pool import try_lock

_T = TypeVar("_T")
_R = TypeVar("_R")
# A question longer than this is not asked for others as well; one argument holds 128 KiB (execve(2)).
_MOST_IDS = 5000


@dataclass(frozen=True)
class Rules:
    """How often may be asked, over all who ask.

    Args:
        per_second: Questions a second in the long run.
        burst: How many may follow each other at once after a pause.
        patience_seconds: How long one who asks is waited for before somebody else does.
    """

    per_second: float = 1.0
    burst: float = 3.0
    patience_seconds: float = 10.0


@dataclass(frozen=True)
class Account:
    """How many questions are left.

    Args:
        left: Those that may be asked at once, as of `counted_at`.
        counted_at: In seconds of the clock.
    """

    left: float
    counted_at: float

    def asked(self, now: float, rules: Rules) -> Account | None:
        """The account after one more; None if that would be one too many."""
        left = self.left + max(0.0, now - self.counted_at) * rules.per_second
        counted = Account(min(rules.burst, left), now)
        return replace(counted, left=counted.left - 1.0) if counted.left >= 1.0 else None


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


class Question(Generic[_T]):
    """Asks about jobs, at most about once a second, and lets others know; used by one thread at a time.

    Args:
        ask: Asks the cluster about these jobs; None where it keeps no such thing.
        kind: The class of an entry.
        shared: Where answers are shared; None for this process alone.
        clock: Seconds of the shared directory's clock.
        rules: How often may be asked, by this process where it cannot share.
    """

    def __init__(
        self,
        ask: Callable[[list[str]], Mapping[str, _T] | None],
        kind: type[_T],
        shared: SharedDirectory | None = None,
        *,
        clock: Callable[[], float],
        rules: Rules | None = None,
    ) -> None:
        self._cluster = ask
        self._format: TypeAdapter[Mapping[str, _T] | None] = entries_format(kind)
        self._shared = shared
        self._rules = rules or Rules()
        self._own_account = Account(self._rules.burst, clock())
        self._turn = Turn("desk", self._rules.patience_seconds)
        self._member = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._life: int | None = None
        self._wanted: frozenset[str] | None = None
        self._seen: tuple[int, ...] | None = None
        self._refused_at: float | None = None
        self.now = clock

    def want(self, ids: Collection[str]) -> None:
        """Let whoever asks next ask about these as well."""
        self._if_shared(lambda shared: self._want(shared, frozenset(ids)), None)

    def leave(self) -> None:
        """Want nothing more."""
        if self._life is not None and self._shared is not None:
            with suppress(OSError):
                (self._shared.path / f"{self._member}.wants").unlink()
            os.close(self._life)
            self._life = self._wanted = None

    def age(self) -> float:
        """Seconds since somebody asked; infinite if nobody did."""
        told = self._if_shared(lambda shared: shared.read("answer"), None)
        return self.now() - told[0] if told else float("inf")

    def refused_seconds(self) -> float:
        """For how long all answers were such that asking again does not mend; 0 while there was another."""
        return 0.0 if self._refused_at is None else self.now() - self._refused_at

    def news(self) -> Answer[_T] | None:
        """What another process was answered since the last call."""
        return self._if_shared(self._news, None)

    def ask(self, ids: Collection[str]) -> Answer[_T] | None:
        """Ask, unless somebody does already or too much was asked; then None, and it is worth to come back soon.

        Raises:
            SlurmError: Slurm's answer is not usable.
            TransportError: There is none.
        """
        nowhere: int | None = NOWHERE
        turn = self._if_shared(self._turn.take, nowhere)
        if turn is None:
            return None
        if turn == NOWHERE:
            account = self._own_account.asked(self.now(), self._rules)
            self._own_account = account or self._own_account
            return self._ask(list(ids)) if account else None
        try:
            # Somebody may have asked between a look and this moment.
            news = self.news()
            if news is not None or not self._if_shared(lambda shared: self._count(shared, turn), False):
                return news
            nobody: list[str] = []
            others = self._if_shared(lambda shared: list(self._wanted_by_others(shared, ids)), nobody)
            return self._ask([*ids, *others[: max(0, _MOST_IDS - len(ids))]])
        finally:
            give_back(turn)

    def _ask(self, ids: list[str]) -> Answer[_T]:
        asked_at = self.now()
        try:
            answer = Answer(asked_at, frozenset(ids), self._cluster(ids))
        except SlurmError as error:
            if error.transient:
                self._publish(Answer(asked_at, frozenset(ids), None, error.message))
            elif self._refused_at is None:
                self._refused_at = self._if_shared(_refused_at, asked_at)
            raise
        self._refused_at = None
        self._if_shared(lambda shared: (shared.path / "refused").unlink(missing_ok=True), None)
        self._publish(answer)
        return answer

    def _publish(self, answer: Answer[_T]) -> None:
        self._if_shared(lambda shared: self._tell(shared, answer), None)

    # -- in the shared directory

    def _want(self, shared: SharedDirectory, wanted: frozenset[str]) -> None:
        if self._life is None:
            # Renamed when it is locked: before, it would look like one that the dead have left.
            self._life = shared.open(f"{self._member}.part")
            fcntl.flock(self._life, fcntl.LOCK_EX)
            (shared.path / f"{self._member}.part").replace(shared.path / f"{self._member}.wants")
        if wanted != self._wanted:
            _write(self._life, json.dumps(sorted(wanted)).encode())
            self._wanted = wanted

    def _count(self, shared: SharedDirectory, desk: int) -> bool:
        """Whether one more may be asked, which is noted."""
        now, read = shared.now(), shared.taken(os.pread(desk, 4096, 0))
        is_whole = read is not None and isinstance(read[1], float) and read[1] <= self._rules.burst
        account = Account(read[1], read[0]) if read and is_whole else Account(self._rules.burst, now)
        asked = account.asked(now, self._rules)
        if asked is not None:
            _write(desk, shared.told(asked.left, asked.counted_at))
        return asked is not None

    def _wanted_by_others(self, shared: SharedDirectory, own: Collection[str]) -> Iterator[str]:
        """What the other processes want to know; what the dead have left is removed."""
        found: dict[str, None] = {}
        for file in shared.path.glob("*.wants"):
            if file.stem == self._member:
                continue
            with suppress(FileNotFoundError), file.open("rb") as theirs:
                if try_lock(theirs.fileno(), fcntl.LOCK_SH):
                    file.unlink()
                else:
                    found.update(dict.fromkeys(_ids_in(theirs.read())))
        return (job_id for job_id in found if job_id not in own)

    def _version(self, shared: SharedDirectory) -> tuple[int, ...] | None:
        try:
            found = (shared.path / "answer").stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _news(self, shared: SharedDirectory) -> Answer[_T] | None:
        version = self._version(shared)
        if version is None or version == self._seen:
            return None
        self._seen = version
        told = shared.read("answer")
        if told is None:
            return None
        try:
            said = told[1]
            failure = None if said["failure"] is None else str(said["failure"])
            entries = self._format.validate_json(said["entries"], strict=True)
            self._refused_at = None if failure is None else self._refused_at
            return Answer(told[0], frozenset(map(str, said["ids"])), entries, failure)
        except (ValueError, TypeError, KeyError):
            # Of another release.
            return None

    def _tell(self, shared: SharedDirectory, answer: Answer[_T]) -> None:
        """Let all know an answer, unless they know a later one."""
        told = shared.read("answer")
        if told is not None and told[0] > answer.asked_at:
            return
        entries = self._format.dump_json(answer.entries).decode()
        said = {"ids": sorted(answer.ids), "entries": entries, "failure": answer.failure}
        shared.write("answer", said, at=answer.asked_at)
        self._seen = self._version(shared)

    def _if_shared(self, do: Callable[[SharedDirectory], _R], otherwise: _R) -> _R:
        return otherwise if self._shared is None else self._shared.attempt(do, otherwise, self.leave)


class Beside:
    """Asks on a thread beside, one question at a time: of several none, and of two kinds one after the other.

    Args:
        came: Called when a question is over.
        start: Runs what asks; a test that has its own time runs it at once.
    """

    def __init__(self, came: Callable[[], None], start: Callable[[Callable[[], None]], None] | None = None) -> None:
        self._came = came
        self._start = start or _on_a_thread
        self._asked: tuple[Question[Any], Future[Answer[Any] | None]] | None = None

    def is_out(self, question: Question[Any] | None = None) -> bool:
        """Whether a question, or this one, is being asked: only its thread may touch that one."""
        return self._asked is not None and question in (None, self._asked[0]) and not self._asked[1].done()

    @property
    def has_answer(self) -> bool:
        """Whether there is something to take: an answer, or why there is none."""
        if self._asked is None or self.is_out():
            return False
        over = self._asked[1]
        return over.exception() is not None or over.result() is not None

    @property
    def is_free(self) -> bool:
        """Whether something may be asked: nothing is out, and what was answered is taken."""
        return not self.is_out() and not self.has_answer

    def drop(self) -> None:
        """Nobody waits for what was answered any more; nothing may be out."""
        self._asked = None

    def ask(self, question: Question[_T], ids: Collection[str]) -> None:
        """Begin to ask, where that `is_free`."""
        over: Future[Answer[_T] | None] = Future()
        over.add_done_callback(lambda _: self._came())
        self._asked = question, over

        def work() -> None:
            try:
                over.set_result(question.ask(ids))
            except BaseException as error:  # noqa: BLE001 - raised by whoever takes the answer
                over.set_exception(error)

        self._start(work)

    def answer(self, question: Question[_T]) -> Answer[_T] | None:
        """What was answered to that question, once.

        Raises:
            SlurmError: As `Question.ask`.
            TransportError: As `Question.ask`.
        """
        if self._asked is None or self._asked[0] is not question or self.is_out():
            return None
        (_, over), self._asked = self._asked, None
        return over.result()


def _on_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="dagster-slurm-question", daemon=True).start()


def entries_format(kind: type[_T]) -> TypeAdapter[Mapping[str, _T] | None]:
    """Writes what is known of jobs as JSON, and reads it again."""
    entries: Any = dict[str, kind] | None  # type: ignore[valid-type]
    return TypeAdapter(entries)


def _ids_in(data: bytes) -> list[str]:
    try:
        return [str(job_id) for job_id in json.loads(data)]
    except (ValueError, TypeError, RecursionError):
        # It is being written.
        return []


def _write(descriptor: int, data: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)


def _refused_at(shared: SharedDirectory) -> float:
    """Since when nobody was given an answer, which is noted: who comes next need not find it out anew."""
    if shared.read("refused") is None:
        shared.write("refused", {})
    noted = shared.read("refused")
    return noted[0] if noted else shared.now()
