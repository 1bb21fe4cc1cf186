"""What a sandbox needs is said in one error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import programs


def test_missing_packages_are_named_once_with_the_line_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"slurmctld", "slurmd", "munged"}
    monkeypatch.setattr(programs, "find", lambda name: None if name in absent else f"/usr/bin/{name}")
    monkeypatch.setattr(programs, "_is_in_lib", lambda patterns: False)
    assert programs.missing_packages() == ("munge", "slurm-wlm", "slurm-wlm-mysql-plugin")
    assert "libpam-oath" in programs.missing_packages(trials=True)
    assert "postgresql" in programs.missing_packages(records=True)
    assert "libpmix-dev" in programs.missing_packages(launchers=True)
    assert "libpmix-dev" not in programs.missing_packages(trials=True)
    with pytest.raises(SandboxError) as caught:
        programs.require_packages()
    assert "munge slurm-wlm slurm-wlm-mysql-plugin" in caught.value.message
    assert "apt-get install --no-install-recommends munge slurm-wlm" in (caught.value.hint or "")


def test_a_user_other_than_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="as root"):
        programs.check_machine()


def test_another_system_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="Linux only"):
        programs.check_machine()


def test_run_tells_what_the_program_said() -> None:
    with pytest.raises(SandboxError, match="status 3: oh") as caught:
        programs.run(["sh", "-c", "echo oh >&2; exit 3"])
    assert caught.value.command == "sh -c 'echo oh >&2; exit 3'"
    assert programs.run(["cat"], stdin="x") == "x"
    with pytest.raises(SandboxError, match="is missing"):
        programs.run(["no-such-program"])


def test_versions_are_read_from_the_programs() -> None:
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    assert said.startswith("OpenSSH_{}.{}".format(*programs.openssh_version()))
    if programs.find("slurmctld") is None:
        pytest.skip("no Slurm is installed here")
    assert (20, 11) <= programs.slurm_version() < (100, 0)


def test_services_are_kept_from_starting_and_the_policy_goes_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(programs, "POLICY_FILE", policy)
    with programs._services_kept_from_starting():
        assert policy.read_text(encoding="ascii").endswith("exit 101\n")
        assert policy.stat().st_mode & 0o111
    assert not policy.exists()
    policy.write_text("theirs", encoding="ascii")
    with programs._services_kept_from_starting():
        assert policy.read_text(encoding="ascii") == "theirs"
    assert policy.exists()
