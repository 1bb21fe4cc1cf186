"""The storage that tests copy is the one that Dagster makes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
from tests.support.instances import empty_instance, lay_out_storage

Content = dict[str, dict[str, list[tuple[object, ...]]]]
# Each storage has an id of its own, and the times at which Dagster marked that nothing is to be migrated.
OF_THE_MOMENT = {"id", "run_storage_id", "create_timestamp", "migration_completed"}


def content_of(database: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Its schema and what its tables hold, but for what differs each time."""
    schema = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()
    content = {"schema": schema, "journal": database.execute("PRAGMA journal_mode").fetchall()}
    for kind, name, *_ in schema:
        if kind == "table":
            columns = [column[1] for column in database.execute(f"PRAGMA table_info({name})")]
            same = ", ".join(f'"{column}"' for column in columns if column not in OF_THE_MOMENT) or "1"
            content[name] = sorted(database.execute(f"SELECT {same} FROM {name}").fetchall())
    return content


def contents(directory: Path) -> Content:
    found: Content = {}
    for path in sorted(directory.rglob("*.db")):
        with closing(sqlite3.connect(path)) as database:
            found[str(path.relative_to(directory))] = content_of(database)
    return found


def test_it_is_what_dagster_makes(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "made")):
        pass
    lay_out_storage(tmp_path / "copied")
    assert contents(tmp_path / "copied") == contents(tmp_path / "made")
    assert set(contents(tmp_path / "made")) == {"history/runs.db", "history/runs/index.db", "schedules/schedules.db"}


def test_dagster_changes_nothing_when_it_opens_it(tmp_path: Path) -> None:
    lay_out_storage(tmp_path)
    before = contents(tmp_path)
    with empty_instance(tmp_path):
        assert contents(tmp_path) == before


def test_a_run_in_it(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def tides() -> int:
        print("high")
        return 1

    result = dg.materialize([tides], instance=instance)
    (captured,) = result.filter_events(lambda event: event.event_type_value == "LOGS_CAPTURED")
    log = instance.compute_log_manager.get_log_data(
        [result.run_id, "compute_logs", captured.event_specific_data.file_key]
    )
    assert log.stdout == b"high\n"
    assert [run.run_id for run in instance.get_runs()] == [result.run_id]
    assert instance.get_latest_materialization_event(dg.AssetKey("tides")) is not None
    (shard,) = Path(instance.root_directory).glob(f"history/runs/{result.run_id}.db")
    assert shard.stat().st_size > 0


def test_two_in_one_process_know_nothing_of_each_other(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("stations", ["north"])
    with empty_instance() as another:
        assert another.get_dynamic_partitions("stations") == []
        assert another.root_directory != instance.root_directory


def test_its_directory_goes_with_it() -> None:
    with empty_instance() as made:
        directory = Path(made.root_directory)
        assert directory.is_dir()
    assert not directory.exists()
