"""The revisions of Dagster's schemas, read once in a process: for each database that is opened Dagster reads them all.

That takes 25 ms of CPU, twice for one that is new; an instance with one run has four. It was an eighth of what the
tests took.
"""

from __future__ import annotations

import alembic.command as alembics
import dagster._core.storage.sql as dagsters
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log

_read: dict[str | None, ScriptDirectory] = {}


class KeptScriptDirectory:
    """In place of the class that Dagster and Alembic ask for the newest revision."""

    @staticmethod
    def from_config(config: Config) -> ScriptDirectory:
        location = config.get_main_option("script_location")
        if location not in _read:
            _read[location] = ScriptDirectory.from_config(config)
        return _read[location]


def keep() -> None:
    """In this process and its forks."""
    for module in (dagsters, alembics):
        module.ScriptDirectory = KeptScriptDirectory  # type: ignore[attr-defined]
    config = dagsters.get_alembic_config(sqlite_event_log.__file__)
    KeptScriptDirectory.from_config(config).as_revision_number("head")
