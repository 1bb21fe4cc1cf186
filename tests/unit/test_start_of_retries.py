"""How the process of a retry is started."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import dagster as dg
import pytest

from dagster_slurm.reconcile import start

PASSWORD = "planted-4711"


def test_the_settings_of_the_instance_are_in_no_command_line(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may hold the password of a database."""
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def run(argv: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        calls.append((argv, options))
        return subprocess.CompletedProcess(argv, 0)

    monkeypatch.setattr(start.subprocess, "run", run)
    monkeypatch.setattr(start, "written_instance", lambda instance: f"postgresql://user:{PASSWORD}@host/db")
    start._execute(instance, dg.DagsterRun(job_name="job"), None)
    ((argv, options),) = calls
    assert PASSWORD not in repr(argv)
    assert PASSWORD in json.loads(options["input"])["instance"]
    assert "env" not in options
