"""Kept connections to Dagster's own SQLite storage: the same events as without, whoever else writes or dies."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy import RootTransaction, text
from tests.support.instances import empty_instance
from tests.support.waiting import at_the_same_time

from dagster_slurm import KeptSqliteEventLogStorage
from dagster_slurm.pipes.dagster_storage import kept_connections, one_transaction

ROOT = Path(__file__).parents[3]
RUN = "0b7c5e5e-8f43-4a3b-b1a6-4c2f0f4f3c11"
OTHER = "1c8d6f6f-9054-4b4c-82b7-5d3010504d22"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with empty_instance(tmp_path) as made:
        yield made


def write(instance: dg.DagsterInstance, text: str, run_id: str = RUN) -> None:
    instance.event_log_storage.store_event(entry(text, run_id))


def entry(text: str, run_id: str) -> dg.EventLogEntry:
    return dg.EventLogEntry(
        error_info=None, level=20, user_message=text, run_id=run_id, timestamp=0.0, dagster_event=None
    )


def materialize(instance: dg.DagsterInstance, partition: str) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization("asset", partition=partition))


def written(instance: dg.DagsterInstance, run_id: str = RUN) -> list[str]:
    with as_another(instance) as other:
        return [each.user_message for each in other.event_log_storage.get_logs_for_run(run_id)]


def as_another(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """The same, as another process sees it."""
    return dg.DagsterInstance.from_ref(instance.get_ref())


def open_files(instance: dg.DagsterInstance) -> list[str]:
    """The files of the storage that this process has open."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(each.readlink()))
        except FileNotFoundError:
            continue
    return sorted(path for path in found if path.endswith(".db") and path.startswith(instance.storage_directory()[:-8]))


def test_the_file_of_a_run_stays_open_and_is_closed_at_the_end(instance: dg.DagsterInstance) -> None:
    with kept_connections(instance, RUN):
        write(instance, "one")
        assert len(open_files(instance)) == 1
        write(instance, "other", OTHER)
        assert len(open_files(instance)) == 1
        write(instance, "two")
    assert open_files(instance) == []
    assert not {"_connect", "has_table"} & set(vars(instance.event_log_storage))
    write(instance, "three")
    assert written(instance) == ["one", "two", "three"]
    assert written(instance, OTHER) == ["other"]


def test_an_event_is_there_for_others_as_soon_as_it_is_written(instance: dg.DagsterInstance) -> None:
    with kept_connections(instance, RUN):
        for number in range(3):
            write(instance, str(number))
            assert written(instance) == [str(each) for each in range(number + 1)]


def test_two_runs_of_one_process_each_end_by_themselves(instance: dg.DagsterInstance) -> None:
    with kept_connections(instance, RUN):
        with kept_connections(instance, OTHER), kept_connections(instance, RUN):
            write(instance, "one")
            write(instance, "other", OTHER)
            assert len(open_files(instance)) == 2
        assert len(open_files(instance)) == 1
        write(instance, "two")
        write(instance, "another", OTHER)
    assert open_files(instance) == []
    assert written(instance) == ["one", "two"]
    assert written(instance, OTHER) == ["other", "another"]


def test_who_comes_late_has_a_connection_of_dagsters_own(instance: dg.DagsterInstance) -> None:
    """A thread that has looked the method up before the end of the run, and calls it after that."""
    with kept_connections(instance, RUN):
        write(instance, "one")
        connect = instance.event_log_storage._connect  # type: ignore[attr-defined]
    for shard in ("index", RUN):
        with connect(shard):
            pass
    assert open_files(instance) == []


def test_many_threads(instance: dg.DagsterInstance) -> None:
    def some(name: str) -> None:
        for number in range(40):
            write(instance, f"{name} {number}")

    threads = [threading.Thread(target=some, args=(str(name),)) for name in range(6)]
    with kept_connections(instance, RUN):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = written(instance)
    for name in range(6):
        mine = [each for each in found if each.startswith(f"{name} ")]
        assert mine == [f"{name} {number}" for number in range(40)]


def test_a_file_that_is_replaced_is_opened_anew(instance: dg.DagsterInstance) -> None:
    """As `dagster run wipe` does it: what was written after it is not in a file without a name."""
    with kept_connections(instance, RUN):
        write(instance, "before")
        as_another(instance).event_log_storage.wipe()
        vars(instance.event_log_storage)["_initialized_dbs"].clear()
        write(instance, "after")
        assert written(instance) == ["after"]


def test_after_an_error_it_goes_on(instance: dg.DagsterInstance) -> None:
    with kept_connections(instance, RUN):
        write(instance, "one")
        with pytest.raises(ZeroDivisionError), instance.event_log_storage.run_connection(RUN):  # type: ignore[attr-defined]
            raise ZeroDivisionError
        write(instance, "two")
    assert written(instance) == ["one", "two"]


def fail_once(patch: pytest.MonkeyPatch) -> None:
    """Let the next commit fail."""
    commit = RootTransaction.commit

    def fail(transaction: RootTransaction) -> None:
        patch.setattr(RootTransaction, "commit", commit)
        transaction.rollback()
        raise OSError("the disk is full")

    patch.setattr(RootTransaction, "commit", fail)


def read(instance: dg.DagsterInstance) -> None:
    instance.event_log_storage.get_logs_for_run(RUN)


class Subclass(SqliteEventLogStorage):
    """One that somebody else has made, who may have other plans with its connections."""


@pytest.mark.parametrize("kind", ["in memory", "a subclass", "of another form"])
def test_another_storage_is_left_as_it_is(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with empty_instance(tmp_path) as on_disk:
        instance = dg.DagsterInstance.ephemeral() if kind == "in memory" else on_disk
        if kind == "a subclass":
            monkeypatch.setattr(instance, "_event_storage", Subclass(str(tmp_path / "own")))
        if kind == "of another form":
            monkeypatch.delattr(SqliteEventLogStorage, "_initdb")
        with kept_connections(instance, RUN), one_transaction(instance):
            assert "_connect" not in vars(instance.event_log_storage)


class TestRuns:
    """The storage of runs, which has one file for all."""

    @pytest.fixture
    def run(self, instance: dg.DagsterInstance) -> dg.DagsterRun:
        return instance.add_run(dg.DagsterRun("all", RUN))

    def status(self, instance: dg.DagsterInstance) -> dg.DagsterRunStatus:
        (found,) = instance.get_runs(dg.RunsFilter(run_ids=[RUN]))
        return found.status

    def test_its_file_stays_open_and_is_closed_at_the_end(
        self, instance: dg.DagsterInstance, run: dg.DagsterRun
    ) -> None:
        with kept_connections(instance, RUN):
            for _ in range(3):
                assert self.status(instance) is dg.DagsterRunStatus.NOT_STARTED
                assert [Path(path).name for path in open_files(instance)] == ["runs.db"]
        assert open_files(instance) == []
        assert "connect" not in vars(instance.run_storage)

    def test_what_others_write_is_seen_at_once_and_by_them(
        self, instance: dg.DagsterInstance, run: dg.DagsterRun
    ) -> None:
        with kept_connections(instance, RUN), as_another(instance) as other:
            self.status(instance)
            other.report_run_canceling(run)
            assert self.status(instance) is dg.DagsterRunStatus.CANCELING
            instance.add_run_tags(RUN, {"mine": "1"})
            other.add_run_tags(RUN, {"theirs": "2"})
            for each in (instance, other):
                (found,) = each.get_runs()
                assert {"mine": "1", "theirs": "2"}.items() <= found.tags.items()

    def test_a_block_within_a_block_is_dagsters_own(self, instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
        """As in `add_backfill`: who ends the inner one commits nothing of the outer one."""
        storage = instance.run_storage
        insert = text("insert into kvs (key, value) values ('one', '1')")
        with kept_connections(instance, RUN):
            with contextlib.suppress(LookupError), storage.connect() as connection:  # type: ignore[attr-defined]
                connection.execute(insert)
                assert self.status(instance) is dg.DagsterRunStatus.NOT_STARTED
                raise LookupError
            assert storage.get_cursor_values({"one"}) == {}
            storage.set_cursor_values({"one": "2"})
            assert storage.get_cursor_values({"one"}) == {"one": "2"}

    def test_many_threads_and_a_fork(self, instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
        storage = instance.run_storage

        def some(name: int) -> None:
            for number in range(20):
                storage.set_cursor_values({f"{name}": f"{number}"})
                assert self.status(instance) is dg.DagsterRunStatus.NOT_STARTED

        with kept_connections(instance, RUN):
            at_the_same_time(some, range(6), most=6)
            child = os.fork()
            if child == 0:
                storage.set_cursor_values({"child": "1"})
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            expected = {**{f"{name}": "19" for name in range(6)}, "child": "1"}
            assert storage.get_cursor_values(set(expected)) == expected

    def test_any_other_storage_is_left_as_it_is(self) -> None:
        with dg.DagsterInstance.ephemeral() as instance, kept_connections(instance, RUN):
            assert "connect" not in vars(instance.run_storage)


class TestTogether:
    """Many events in one transaction of each file."""

    def test_they_are_there_at_its_end(self, instance: dg.DagsterInstance) -> None:
        with kept_connections(instance, RUN):
            write(instance, "before")
            with one_transaction(instance):
                write(instance, "one")
                write(instance, "two")
                assert written(instance) == ["before"]
            assert written(instance) == ["before", "one", "two"]

    def test_what_was_written_before_an_error_stays(self, instance: dg.DagsterInstance) -> None:
        with kept_connections(instance, RUN):
            with pytest.raises(ZeroDivisionError), one_transaction(instance):
                write(instance, "one")
                raise ZeroDivisionError
            write(instance, "two")
        assert written(instance) == ["one", "two"]

    def test_files_that_are_not_kept_are_not_in_it(self, instance: dg.DagsterInstance) -> None:
        with kept_connections(instance, RUN), one_transaction(instance):
            write(instance, "other", OTHER)
            assert written(instance, OTHER) == ["other"]

    def test_the_index_is_in_it(self, instance: dg.DagsterInstance) -> None:
        with kept_connections(instance, RUN), one_transaction(instance):
            for partition in ("a", "b"):
                materialize(instance, partition)
            with as_another(instance) as other:
                assert other.get_materialized_partitions(dg.AssetKey("asset")) == set()
        assert instance.get_materialized_partitions(dg.AssetKey("asset")) == {"a", "b"}
        assert open_files(instance) == []

    def test_a_table_that_is_there_is_not_asked_for_again(
        self, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def has_table(storage: SqliteEventLogStorage, table_name: str) -> bool:
            asked.append(table_name)
            return len(asked) > 1

        monkeypatch.setattr(SqliteEventLogStorage, "has_table", has_table)
        with kept_connections(instance, RUN):
            assert [instance.event_log_storage.has_table("one") for _ in range(4)] == [False, True, True, True]  # type: ignore[attr-defined]
        assert asked == ["one", "one"]
        assert instance.event_log_storage.has_table("two")  # type: ignore[attr-defined]
        assert asked == ["one", "one", "two"]

    def test_one_within_another_is_the_same(self, instance: dg.DagsterInstance) -> None:
        with kept_connections(instance, RUN), one_transaction(instance), one_transaction(instance):
            write(instance, "one")
        assert written(instance) == ["one"]

    def test_another_threads_event_is_there_when_it_is_written(self, instance: dg.DagsterInstance) -> None:
        with kept_connections(instance, RUN):
            with one_transaction(instance):
                write(instance, "one")
                other = threading.Thread(target=write, args=(instance, "other"))
                other.start()
                other.join()
                assert written(instance) == ["one", "other"]
                write(instance, "two")
            assert written(instance) == ["one", "other", "two"]

    def test_an_error_of_another_thread_takes_nothing_of_it(self, instance: dg.DagsterInstance) -> None:
        def fail() -> None:
            with contextlib.suppress(ZeroDivisionError), instance.event_log_storage.run_connection(RUN):  # type: ignore[attr-defined]
                raise ZeroDivisionError

        with kept_connections(instance, RUN), one_transaction(instance):
            write(instance, "one")
            other = threading.Thread(target=fail)
            other.start()
            other.join()
        assert written(instance) == ["one"]

    def test_who_logs_under_the_lock_of_a_handler_waits_for_no_batch(self, instance: dg.DagsterInstance) -> None:
        """Dagster takes that lock first, and the storage's within it; both a step that records and one that logs do."""
        handler = threading.Lock()

        def log(name: str) -> None:
            for number in range(60):
                with handler:
                    write(instance, f"{name} {number}")

        def record() -> None:
            with one_transaction(instance):
                log("recorded")

        threads = [threading.Thread(target=log, args=("line",), daemon=True)]
        threads += [threading.Thread(target=record, daemon=True) for _ in range(2)]
        with kept_connections(instance, RUN):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)
        assert len(written(instance)) == 180

    def test_what_is_lost_at_a_commit_is_known_to_who_wrote_it(
        self, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where another thread has committed it: the directories of these partitions are not to be removed."""
        with kept_connections(instance, RUN):
            write(instance, "before")
            with pytest.raises(OSError, match="full"), one_transaction(instance):
                write(instance, "lost")
                fail_once(monkeypatch)
                other = threading.Thread(target=read, args=(instance,))
                other.start()
                other.join()
                write(instance, "kept")
        assert written(instance) == ["before", "kept"]

    def test_without_kept_connections_each_is_by_itself(self, instance: dg.DagsterInstance) -> None:
        with one_transaction(instance):
            write(instance, "one")
            assert written(instance) == ["one"]


@pytest.mark.process
class TestOtherProcesses:
    """Forks of this one, others on the same run, and one that is killed."""

    def test_a_fork_has_connections_of_its_own(self, instance: dg.DagsterInstance) -> None:
        with kept_connections(instance, RUN):
            write(instance, "parent 1")
            child = os.fork()
            if child == 0:
                try:
                    with one_transaction(instance):
                        write(instance, "child")
                    with kept_connections(instance, RUN), one_transaction(instance):
                        write(instance, "child again")
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            write(instance, "parent 2")
        assert written(instance) == ["parent 1", "child", "child again", "parent 2"]

    def test_two_processes_on_one_run(self, instance: dg.DagsterInstance, tmp_path: Path) -> None:
        with other_writer(instance, tmp_path) as other, kept_connections(instance, RUN):
            for number in range(60):
                with one_transaction(instance):
                    write(instance, f"here {number}")
            other.wait()
        found = written(instance)
        assert [each for each in found if each.startswith("here ")] == [f"here {number}" for number in range(60)]
        assert [each for each in found if each.startswith("there ")] == [f"there {number}" for number in range(60)]

    def test_what_was_written_survives_a_kill(self, instance: dg.DagsterInstance, tmp_path: Path) -> None:
        with other_writer(instance, tmp_path, count=100_000) as other:
            assert other.stdout is not None
            told = [other.stdout.readline().strip() for _ in range(30)]
            other.send_signal(signal.SIGKILL)
        found = written(instance)
        assert found[:30] == told
        write(instance, "after")
        assert written(instance) == [*found, "after"]


WRITER = """
import sys
import dagster as dg
from tests.unit.pipes.test_dagster_storage import RUN, kept_connections, write

with dg.DagsterInstance.from_config(sys.argv[1]) as instance, kept_connections(instance, RUN):
    for number in range(int(sys.argv[2])):
        write(instance, f"there {number}")
        print(f"there {number}", flush=True)
"""


def other_writer(instance: dg.DagsterInstance, tmp_path: Path, count: int = 60) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WRITER, str(Path(instance.storage_directory()).parent), str(count)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.process
def test_one_event_waits_for_the_disk_once(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Five times without kept connections: SQLite moves its write-ahead log back, and removes it, after each event."""
    write(instance, "what makes the tables of the run")
    trace = tmp_path / "trace"
    program = [sys.executable, "-c", WRITER, str(Path(instance.storage_directory()).parent), "20"]
    argv = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(trace), *program]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode and re.search(r"ptrace.*(not permitted|denied)", done.stderr):
        pytest.skip(f"tracing is forbidden on this machine: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    assert trace.read_text().count("sync(") <= 2 * 20


class TestStorageOfDagsterYaml:
    """The storage that keeps all connections, in a process that executes nothing as well."""

    @pytest.fixture
    def instance(self, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
        named = {"module": "dagster_slurm", "class": "KeptSqliteEventLogStorage"}
        files = str(tmp_path / "history" / "runs")
        with empty_instance(tmp_path, {"event_log_storage": {**named, "config": {"base_dir": files}}}) as made:
            yield made

    def test_what_it_writes_is_read_by_dagsters_own(self, instance: dg.DagsterInstance, tmp_path: Path) -> None:
        assert type(instance.event_log_storage) is KeptSqliteEventLogStorage
        write(instance, "one")
        materialize(instance, "a")
        own = SqliteEventLogStorage(str(tmp_path / "history" / "runs"))
        assert [each.user_message for each in own.get_logs_for_run(RUN)] == ["one"]
        assert own.get_materialized_partitions(dg.AssetKey("asset")) == {"a"}

    def test_files_stay_open_until_it_is_closed(self, instance: dg.DagsterInstance) -> None:
        for number in range(12):
            write(instance, "one", f"run-{number}")
            write(instance, "two", RUN)
        assert len(open_files(instance)) == 8
        assert f"{RUN}.db" in {Path(path).name for path in open_files(instance)}
        assert all(written(instance, f"run-{number}") == ["one"] for number in range(12))
        instance.event_log_storage.dispose()
        assert open_files(instance) == []
        write(instance, "three")
        assert written(instance) == ["two"] * 12 + ["three"]

    def test_planned_events_go_through_them(self, instance: dg.DagsterInstance) -> None:
        """What is written before any executor begins."""

        @dg.asset
        def one() -> None:
            pass

        write(instance, "what opens the file")
        before = open_files(instance)
        job = dg.Definitions([one], jobs=[dg.define_asset_job("all", [one])]).resolve_job_def("all")
        instance.create_run_for_job(job, run_id=RUN)
        assert set(before) <= set(open_files(instance))
        with as_another(instance) as other:
            assert len(other.event_log_storage.get_logs_for_run(RUN)) == 2

    def test_in_another_form_it_is_dagsters_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dagster_slurm.pipes.dagster_storage._NEEDED", ("what_there_is_not",))
        storage = KeptSqliteEventLogStorage(str(tmp_path))
        storage.store_event(entry("one", RUN))
        assert [each.user_message for each in storage.get_logs_for_run(RUN)] == ["one"]
        assert not [each for each in tmp_path.iterdir() if each.name.endswith("-wal")]

    @pytest.mark.parametrize(
        "case",
        [
            test_an_event_is_there_for_others_as_soon_as_it_is_written,
            test_many_threads,
            test_a_file_that_is_replaced_is_opened_anew,
            test_after_an_error_it_goes_on,
            TestTogether().test_they_are_there_at_its_end,
            TestTogether().test_another_threads_event_is_there_when_it_is_written,
            TestTogether().test_an_error_of_another_thread_takes_nothing_of_it,
            TestTogether().test_who_logs_under_the_lock_of_a_handler_waits_for_no_batch,
            TestOtherProcesses().test_a_fork_has_connections_of_its_own,
        ],
    )
    def test_as_kept_connections(
        self, case: Callable[[dg.DagsterInstance], None], instance: dg.DagsterInstance
    ) -> None:
        case(instance)

    @pytest.mark.process
    @pytest.mark.parametrize(
        "case",
        [
            pytest.param(TestOtherProcesses().test_two_processes_on_one_run, marks=pytest.mark.all_faults),
            TestOtherProcesses().test_what_was_written_survives_a_kill,
        ],
    )
    def test_beside_another_process(
        self, case: Callable[[dg.DagsterInstance, Path], None], instance: dg.DagsterInstance, tmp_path: Path
    ) -> None:
        case(instance, tmp_path)
