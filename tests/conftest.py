"""Fixtures for all tests."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg
import hypothesis  # its plugin would import it at the end of a session; CPython 3.11 fails there (gh-106905)
import pytest

from dagster_slurm.sandbox import Sandbox, SandboxConfig
from tests.support import durations, postgres, revisions, sampled
from tests.support.files import session_directory
from tests.support.instances import empty_instance
from tests.support.side_by_side import in_order, mark_groups

EPILOG = Path(__file__).parent / "support" / "epilog.sh"
RECORD = Path(__file__).with_name("durations.tsv")
# On a busy machine an example of a microsecond takes a quarter of a second now and then, and making one takes longer.
hypothesis.settings.register_profile(
    "whatever the load",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    max_examples=100 if os.environ.get("FAULTS") == "all" else 50,
)
hypothesis.settings.load_profile("whatever the load")
revisions.keep()
# It would be imported in the first test that needs it, beside threads of tests before; CPython fails there, too.
importlib.import_module("hypothesis.strategies._internal.types")
pytest_plugins = ["dagster_slurm.sandbox.pytest_plugin"]

# What a shell starts in the background ignores SIGINT. Dagster then sets SIGTERM to the same, and every process that
# a test starts would inherit that and not end when it is told to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# With nohup, SIGHUP is ignored, here and in what tests start: no terminal could be closed.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Dagster's first run in this process leaves SIGTERM with the handler of SIGINT. It is so from the first test on, and no
# test sees it change.
signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In `make faults`, run what is marked so with each storage of Dagster's."""
    if os.environ.get("FAULTS") == "all" and metafunc.definition.get_closest_marker("any_storage"):
        kinds = ["sqlite", pytest.param("postgres", marks=pytest.mark.all_faults)]
        metafunc.parametrize("storage", kinds, indirect=True)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what is marked so to `make faults`."""
    if os.environ.get("FAULTS") != "all":
        _deselect(config, items, {item.nodeid for item in items if item.get_closest_marker("all_faults")})
        _deselect(config, items, sampled.left_out(items))
    mark_groups(items)
    items[:] = in_order(items, durations.seconds_by_group(RECORD))


def _deselect(config: pytest.Config, items: list[pytest.Item], names: set[str]) -> None:
    if left := [item for item in items if item.nodeid in names]:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item.nodeid not in names]


def pytest_collection_finish() -> None:
    """Have the collector of garbage pass over twelve thousand tests and what they import: a seventh of the CPU."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before pytest chooses a directory
def pytest_configure(config: pytest.Config) -> None:
    """Give the session a directory of its own; note what each test takes, if that is asked for.

    The process that only hands out tests runs none.
    """
    if config.option.basetemp is None and "PYTEST_XDIST_WORKER" not in os.environ:
        config.option.basetemp = str(session_directory())
    directory = os.environ.get(durations.VARIABLE)
    hands_out = config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ
    if directory and not hands_out:
        config.pluginmanager.register(durations.Recorder(Path(directory)))


@pytest.fixture(scope="session")
def sandbox_config() -> SandboxConfig:
    """One shape for all tests: with room for hundreds of jobs, small arrays, and jobs that take the place of others."""
    # Above, pytest would find the plugin imported before it could rewrite its assertions.
    from dagster_slurm.sandbox.pytest_plugin import config_for_this_worker

    options = {
        "Epilog": str(EPILOG),
        "MaxArraySize": "26",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
    }
    config = config_for_this_worker(
        "tests",
        "tester",
        nodes=3,
        cpus_per_node=256,
        memory_mib_per_node=512_000,
        # Slurm's own times are for clusters of thousands of nodes; here they would only be waited for.
        message_timeout_seconds=3,
        credential_seconds=10,
        slurm_options=options,
    )
    config = dataclasses.replace(config, users=(f"{config.user}-2",))
    # Left by a session that was killed: with jobs, mounts and nodes in states that nobody knows.
    if (left := Sandbox(config)).is_up():
        left.down()
    return config


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A server of PostgreSQL, for the worker."""
    with postgres.running() as server:
        yield server


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Mapping[str, object]:
    """What `dagster.yaml` says of where the records are: nothing, which is SQLite, unless the test is for another."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return {}
    server: postgres.Server = request.getfixturevalue("postgres_server")
    return postgres.storage_at(server.empty_storage())


@pytest.fixture
def instance(storage: Mapping[str, object]) -> Iterator[dg.DagsterInstance]:
    """An instance with a storage of its own, compute logs included."""
    with empty_instance(storage=storage) as made:
        yield made


@pytest.fixture
def local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What this machine keeps between runs, apart from what the user of the tests keeps."""
    path = tmp_path / "local-store"
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", str(path))
    return path
