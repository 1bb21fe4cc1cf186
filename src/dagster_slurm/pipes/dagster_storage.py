"""Connections of Dagster's own SQLite storage that stay open for a run: all that touches that storage is here.

The event log makes a new engine for every event (Dagster 1.13, `sqlite_event_log.py`): each statement is compiled anew,
under one lock of the process, and closing the only connection makes SQLite copy its write-ahead log back and remove it.
That is five fsync and 4 ms of CPU for an event, against one fsync and 0.8 ms with a connection that stays open. So does
the storage of runs, which is asked for the run's status up to five times a second.

What is written, and when it is durable, is the same. Any other storage is left as it is, and so is this one in any
other form. An executor begins when the planned events of its run are written; a storage that is named in `dagster.yaml`
makes these cheap as well.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from dagster import DagsterInstance
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, RootTransaction, create_engine, make_url
from sqlalchemy.pool import NullPool, StaticPool

_INDEX = "index"
# Of a storage that keeps all: a web server or a daemon comes by the files of many runs.
_MOST_FILES = 8
# As Dagster's own (SQLITE_BUSY_TIMEOUT_SECONDS).
_BUSY_SECONDS = 60
_NEEDED = (
    "_connect",
    "has_table",
    "_db_lock",
    "_initdb",
    "_initialized_dbs",
    "conn_string_for_shard",
    "path_for_shard",
)

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
        original: Dagster's own method in the place of `connect`.
        has_table: Dagster's own method in the place of `has_table`.
        most: How many files are kept open, whichever are used; None for those of the runs that ask for it.
    """

    def __init__(
        self,
        storage: Any,
        original: Callable[[str], AbstractContextManager[Connection]],
        has_table: Callable[[str], bool],
        *,
        most: int | None = None,
    ) -> None:
        self._storage = storage
        self._original = original
        self._original_has_table = has_table
        self._tables: set[str] = set()
        self._most = most
        self._process = os.getpid()
        self._open: dict[str, _Open] = {}
        self._thread = threading.local()
        self._batch: _Batch | None = None
        self._runs: Counter[str] = Counter()
        # What stands in the place of the storage's own methods while a run asks for it.
        self.methods: dict[str, Any] = {}
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
        self.close()
        return bool(self._runs)

    def close(self) -> None:
        """Close what no run has asked for."""
        with self._storage._db_lock:
            self._commit()
            for shard in set(self._open) - self._kept:
                self._forget(shard)

    def has_table(self, name: str) -> bool:
        """In place of the storage's own, which opens the index anew for each materialisation; what is there stays."""
        if name not in self._tables and self._original_has_table(name):
            self._tables.add(name)
        return name in self._tables

    @contextmanager
    def connect(self, shard: str) -> Iterator[Connection]:
        """In place of the storage's own method: a transaction on the file of a run, or on the index."""
        if os.getpid() != self._process or (self._most is None and shard not in self._kept):
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
            # The last one is the one that was used last.
            self._open[shard] = self._open.pop(shard)
            return known.engine
        self._commit()
        self._forget(shard)
        self._make_room()
        self._initialize(shard)
        engine = create_engine(
            self._storage.conn_string_for_shard(shard),
            poolclass=StaticPool,
            # The storage's lock lets one thread at a time use it.
            connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        )
        self._open[shard] = _Open(engine, _file_id(path))
        return engine

    def _make_room(self) -> None:
        while self._most is not None and len(self._open) >= self._most:
            self._forget(next(iter(self._open)))

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
        # Twice for each event; a `Path` would cost more than the file system.
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


class KeptSqliteEventLogStorage(SqliteEventLogStorage):
    """Dagster's own SQLite event log, in the same files, with connections that stay open in every process.

    It is for `dagster.yaml`, and every process that opens the instance needs this package::

        event_log_storage:
          module: dagster_slurm
          class: KeptSqliteEventLogStorage
          config:
            base_dir: /path/to/dagster_home/history/runs

    Args:
        base_dir: The directory of the files; Dagster's own is `history/runs` in DAGSTER_HOME.
        inst_data: What Dagster has made it from.
    """

    _kept: _Kept | None = None

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        if _is_known(self):
            self._kept = _Kept(self, super()._connect, super().has_table, most=_MOST_FILES)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> KeptSqliteEventLogStorage:
        """As Dagster's own, of this class."""
        return cls(inst_data=inst_data, **config_value)

    def _connect(self, shard: str) -> Any:
        return super()._connect(shard) if self._kept is None else self._kept.connect(shard)

    def has_table(self, table_name: str) -> bool:
        """As Dagster's own, which is asked until there is one."""
        return super().has_table(table_name) if self._kept is None else self._kept.has_table(table_name)

    def dispose(self) -> None:
        """Close all connections, besides what Dagster does."""
        super().dispose()
        if self._kept is not None:
            self._kept.close()


class _Runs:
    """The one file of Dagster's SQLite run storage, as `_Kept` takes those of the event log.

    Args:
        storage: The storage.
    """

    def __init__(self, storage: SqliteRunStorage) -> None:
        self._db_lock = threading.Lock()
        # Whoever opens an instance makes the tables.
        self._initialized_dbs = {_INDEX}
        self._url = storage._conn_string
        self._path = make_url(self._url).database or ""
        self._connect_anew = storage.connect
        self._thread = threading.local()
        self.kept = _Kept(self, lambda _: self._connect_anew(), lambda _: False)

    def conn_string_for_shard(self, _: str) -> str:
        return self._url

    def path_for_shard(self, _: str) -> str:
        return self._path

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """In place of the storage's own method, which some of its methods call within a block of another one."""
        if getattr(self._thread, "is_within", False):
            with self._connect_anew() as connection:
                yield connection
            return
        self._thread.is_within = True
        try:
            with self.kept.connect(_INDEX) as connection:
                yield connection
        finally:
            self._thread.is_within = False


def _is_known(storage: object) -> bool:
    return all(hasattr(storage, name) for name in _NEEDED)


_known: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()
_lock = threading.Lock()


def _keep(storage: Any) -> _Kept | None:
    """Put methods of ours in the place of a storage's own; None, and nothing is done, where it is not what we know."""
    if type(storage) is SqliteEventLogStorage and _is_known(storage):
        kept = _Kept(storage, storage._connect, storage.has_table)
        kept.methods.update(_connect=kept.connect, has_table=kept.has_table)
    elif type(storage) is SqliteRunStorage and hasattr(storage, "_conn_string"):
        runs = _Runs(storage)
        kept = runs.kept
        kept.methods.update(connect=runs.connect)
    else:
        return None
    vars(storage).update(kept.methods)
    _known[storage] = kept
    return kept


@contextmanager
def kept_connections(instance: DagsterInstance, run_id: str) -> Iterator[None]:
    """Let Dagster's SQLite storage keep, for this block, its connections to a run's file, to the index and to the runs.

    Args:
        instance: The instance.
        run_id: The run.
    """
    storages: tuple[Any, ...] = (instance.event_log_storage, instance.run_storage)
    with _lock:
        asked = [(storage, kept) for storage in storages if (kept := _known.get(storage) or _keep(storage))]
        for _, kept in asked:
            kept.ask(run_id)
    try:
        yield
    finally:
        with _lock:
            for storage, kept in asked:
                if not kept.release(run_id) and _known.get(storage) is kept:
                    del _known[storage]
                    for name in kept.methods:
                        del vars(storage)[name]


@contextmanager
def one_transaction(instance: DagsterInstance) -> Iterator[None]:
    """Write the events of this block together, where connections are kept; one by one elsewhere.

    Nothing else is to be waited for in the block: no other process writes to the index meanwhile.

    Args:
        instance: The instance.
    """
    storage = instance.event_log_storage
    kept = storage._kept if isinstance(storage, KeptSqliteEventLogStorage) else _known.get(storage)
    if kept is None:
        yield
        return
    with kept.together():
        yield
