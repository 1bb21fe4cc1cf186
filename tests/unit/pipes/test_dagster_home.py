"""What is said of a DAGSTER_HOME that Dagster cannot open."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.pipes.dagster_runs import instance_of_environment


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"run_queue: {max_concurrent_runs: 3", "while parsing a flow mapping"),
        (b"run_qeue: {}", 'unexpected config entry "run_qeue"'),
        (b"- run_queue", "dagster.yaml"),
        (b"storage: \xff", "dagster.yaml|byte"),
        (b"instance_class: {module: no_such_module, class: Launcher}", "no_such_module"),
    ],
)
def test_a_file_that_dagster_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bytes, said: str
) -> None:
    (tmp_path / "dagster.yaml").write_bytes(written)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    refused = pytest.raises(ConfigurationError, match=f"^DAGSTER_HOME is not usable: .*({said})")
    with refused as caught, instance_of_environment():
        pass
    assert "dagster.yaml" in str(caught.value.hint)
