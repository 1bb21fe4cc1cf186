"""How daemons are started, which depends on their versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_slurm_sandbox import daemons
from dagster_slurm_sandbox.config import SandboxPaths

PATHS = SandboxPaths(Path("/var/lib/dagster-slurm-sandbox/default"))


def test_sandboxes_that_come_up_at_once_have_temporary_tables_of_their_own() -> None:
    assert f"--tmpdir={PATHS.state_dir}/database/tmp" in daemons.database_options(PATHS)


@pytest.mark.parametrize(
    ("version", "options"),
    [((20, 11), ["-D"]), ((22, 5), ["-D"]), ((24, 11), ["-D"]), ((25, 5), ["-D", "-i"]), ((26, 5), ["-D", "-i"])],
    ids=str,
)
def test_a_controller_starts_that_was_killed_before_its_first_save(
    version: tuple[int, int], options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons, "slurm_version", lambda: version)
    monkeypatch.setattr(daemons, "path_of", lambda program: f"/usr/sbin/{program}")
    assert daemons.slurmctld(PATHS).argv == ["/usr/sbin/slurmctld", *options]
