"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support import durations
from tests.support.side_by_side import in_order, mark_groups

RECORD = Path(__file__).with_name("durations.tsv")
pytest_plugins = ["dagster_slurm.sandbox.pytest_plugin"]

# What a shell starts in the background ignores SIGINT. Dagster then sets SIGTERM to the same, and every process that
# a test starts would inherit that and not end when it is told to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# With nohup, SIGHUP is ignored, here and in what tests start: no terminal could be closed.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what is marked so to `make faults`."""
    everything = os.environ.get("FAULTS") == "all"
    left = [] if everything else [item for item in items if item.get_closest_marker("all_faults")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("all_faults")]
    mark_groups(items)
    items[:] = in_order(items, durations.seconds_by_group(RECORD))


def pytest_configure(config: pytest.Config) -> None:
    """Note what each test takes, if that is asked for; the process that only hands out tests runs none."""
    directory = os.environ.get(durations.VARIABLE)
    hands_out = config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ
    if directory and not hands_out:
        config.pluginmanager.register(durations.Recorder(Path(directory)))


@pytest.fixture
def local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What this machine keeps between runs, apart from what the user of the tests keeps."""
    path = tmp_path / "local-store"
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", str(path))
    return path
