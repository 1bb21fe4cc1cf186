"""Connections of Dagster's own SQLite event log that stay open for a run: all that touches its storage is here.

That storage makes a new engine for every event (Dagster 1.13, `sqlite_event_log.py`): each statement is compiled anew,
under one lock of the process, and closing the only connection makes SQLite copy its write-ahead log back and remove it.
That is five fsync and 4 ms of CPU for an event, against one fsync and 0.8 ms with a connection that stays open.

What is written, and when it is durable, is the same. Any other storage is left as it is, and so is this one in any
other form.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from dagster import DagsterInstance
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy import Connection, Engine, RootTransaction, create_engine
from sqlalchemy.pool import NullPool, StaticPool

_INDEX = "index"
# As Dagster's own (SQLITE_BUSY_TIMEOUT_SECONDS).
_BUSY_SECONDS = 60
_NEEDED = ("_connect", "_db_lock", "_initdb", "_initialized_dbs", "conn_string_for_shard", "path_for_shard")

_FileId = tuple[int, int]


@dataclass(frozen=True)
class _Open:
    """An engine with its one connection, and which file that has open."""

    engine: Engine
    file: _FileId | None


@dataclass
class _Batch:
    """What one thread writes in one transaction of each file.

    Args:
        begun: The transactions, in the order in which they were begun.
        error: Why what was written in an earlier one is lost.
    """

    begun: dict[str, RootTransaction] = field(default_factory=dict)
    error: Exception | None = None


class _Kept:
    """The connections to one storage: to the files of the runs that ask for it, and to the index of all.

    No lock is held from one event of a batch to the next. Dagster writes an event under the lock of a log handler, and
    takes that of the storage within it: who holds this one and writes an event waits for whoever does the same.

    Args:
        storage: The storage.
    """

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._original = storage._connect
        self._process = os.getpid()
        self._open: dict[str, _Open] = {}
        self._thread = threading.local()
        self._batch: _Batch | None = None
        self._runs: Counter[str] = Counter()
        # Replaced as a whole: threads that write look at it without a lock.
        self._kept: frozenset[str] = frozenset()

    def ask(self, run_id: str) -> None:
        """Keep the connections that a run needs, until it is released as often as it was asked for."""
        self._runs[run_id] += 1
        self._kept = frozenset({_INDEX, *self._runs})

    def release(self, run_id: str) -> bool:
        """Close what no run needs any more; whether any still does."""
        self._runs[run_id] -= 1
        self._runs = +self._runs
        self._kept = frozenset({_INDEX, *self._runs} if self._runs else ())
        with self._storage._db_lock:
            self._commit()
            for shard in set(self._open) - self._kept:
                self._forget(shard)
        return bool(self._runs)

    @contextmanager
    def connect(self, shard: str) -> Iterator[Connection]:
        """In place of the storage's own method: a transaction on the file of a run, or on the index."""
        if os.getpid() != self._process or shard not in self._kept:
            # A fork must not use its parent's connections (sqlite.org/howtocorrupt.html, 2.6).
            with self._original(shard) as connection:
                yield connection
            return
        with self._storage._db_lock:
            batch: _Batch | None = getattr(self._thread, "batch", None)
            if self._batch is not batch:
                self._commit()
            how = self._transaction(shard) if batch is None else self._in_batch(batch, shard)
            with how as connection:
                yield connection

    @contextmanager
    def together(self) -> Iterator[None]:
        """What this thread writes in the block is one transaction of each file, committed however the block ends.

        Whoever else writes meanwhile, or reads, commits what there is of it before.
        """
        if os.getpid() != self._process or getattr(self._thread, "batch", None) is not None:
            yield
            return
        batch = self._thread.batch = _Batch()
        try:
            yield
        finally:
            self._thread.batch = None
            with self._storage._db_lock:
                if self._batch is batch:
                    self._commit()
        if batch.error is not None:
            raise batch.error

    @contextmanager
    def _in_batch(self, batch: _Batch, shard: str) -> Iterator[Connection]:
        engine = self._engine(shard)
        self._batch = batch
        if shard not in batch.begun:
            batch.begun[shard] = engine.connect().begin()
        try:
            yield batch.begun[shard].connection
        except BaseException:
            self._commit()
            raise

    def _commit(self) -> None:
        """Commit a batch, in the order in which Dagster stores an event: in the run's file, and then in the index."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        begun, batch.begun = batch.begun, {}
        try:
            for transaction in begun.values():
                transaction.commit()
        except Exception as error:  # noqa: BLE001 - it is the batch's own thread that has to know
            batch.error = batch.error or error
        for shard, transaction in begun.items():
            transaction.connection.close()
            if batch.error is not None:
                self._forget(shard)

    @contextmanager
    def _transaction(self, shard: str) -> Iterator[Connection]:
        try:
            with self._engine(shard).connect() as connection, connection.begin():
                yield connection
        except BaseException:
            # Whatever state it is in now: the next event begins with a new one.
            self._forget(shard)
            raise

    def _engine(self, shard: str) -> Engine:
        """The engine for a file; another one where the file is another now, as after `dagster run wipe`."""
        path = self._storage.path_for_shard(shard)
        known = self._open.get(shard)
        if known is not None and known.file is not None and known.file == _file_id(path):
            return known.engine
        self._commit()
        self._forget(shard)
        self._initialize(shard)
        engine = create_engine(
            self._storage.conn_string_for_shard(shard),
            poolclass=StaticPool,
            # The storage's lock lets one thread at a time use it.
            connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        )
        self._open[shard] = _Open(engine, _file_id(path))
        return engine

    def _initialize(self, shard: str) -> None:
        """Make the tables of a file that this process has not opened before, as the storage does it."""
        if shard in self._storage._initialized_dbs:
            return
        engine = create_engine(
            self._storage.conn_string_for_shard(shard), poolclass=NullPool, connect_args={"timeout": _BUSY_SECONDS}
        )
        self._storage._initdb(engine)
        self._storage._initialized_dbs.add(shard)
        engine.dispose()

    def _forget(self, shard: str) -> None:
        known = self._open.pop(shard, None)
        if known is not None:
            known.engine.dispose()


def _file_id(path: str) -> _FileId | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_known: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def kept_connections(instance: DagsterInstance, run_id: str) -> Iterator[None]:
    """Let Dagster's SQLite event log keep its connections to the file of a run, and to its index, for this block.

    Args:
        instance: The instance.
        run_id: The run.
    """
    storage: Any = instance.event_log_storage
    if type(storage) is not SqliteEventLogStorage or not all(hasattr(storage, name) for name in _NEEDED):
        yield
        return
    with _lock:
        kept = _known.get(storage)
        if kept is None:
            kept = _known[storage] = _Kept(storage)
            vars(storage)["_connect"] = kept.connect
        kept.ask(run_id)
    try:
        yield
    finally:
        with _lock:
            if not kept.release(run_id) and _known.get(storage) is kept:
                del vars(storage)["_connect"], _known[storage]


@contextmanager
def one_transaction(instance: DagsterInstance) -> Iterator[None]:
    """Write the events of this block together, where connections are kept; one by one elsewhere.

    Nothing else is to be waited for in the block: no other process writes to the index meanwhile.

    Args:
        instance: The instance.
    """
    kept = _known.get(instance.event_log_storage)
    if kept is None:
        yield
        return
    with kept.together():
        yield
