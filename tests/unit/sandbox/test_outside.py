"""Directories that all sandboxes of this machine share go with the last of them, wherever its files lie."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from dagster_slurm_sandbox import processes, startup
from dagster_slurm_sandbox.config import MARKER_VARIABLE, SandboxPaths

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_sandbox_of_another_base_directory_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /run/sshd, a running sshd resets every connection."""
    # Other sandboxes of this machine are not to count here.
    monkeypatch.setattr(startup, "MARKER_VARIABLE", f"{MARKER_VARIABLE}_OF_THIS_TEST")
    paths, shared = SandboxPaths(tmp_path / "base" / "name"), tmp_path / "shared"
    paths.state_dir.parent.mkdir()

    def taken_down() -> None:
        startup.note_made(paths, shared)
        shared.mkdir(exist_ok=True)
        startup.remove_if_last(paths)

    other = processes.start(
        ["/bin/sleep", "60"],
        log=tmp_path / "log",
        environment={startup.MARKER_VARIABLE: "elsewhere"},
        on_start=lambda _: None,
    )
    environ = Path("/proc", str(other.pid), "environ")
    try:
        # Empty until the kernel has laid it out, which is after it has closed the pipe that Popen waits for.
        eventually(environ.read_bytes)
        taken_down()
        assert shared.exists()
    finally:
        processes.end([other])
    taken_down()
    assert not shared.exists()
