"""What people set for working by hand does not reach our commands, and reaches their jobs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.launches import created
from tests.support.slurm_programs import Slurm

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.look import look_at_all
from dagster_slurm.errors import ConfigurationError, SlurmUnavailableError
from dagster_slurm.housekeeping.leftovers import sizes_kib
from dagster_slurm.staging import DataOptions, plan_staging
from dagster_slurm.staging.store import InputStore
from dagster_slurm.transport import LocalTransport
from dagster_slurm.transport.shell import shell_file

SBATCH = """#!/bin/sh
env >"$(dirname "$0")/environment"
echo 17
"""


@pytest.fixture
def by_hand(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    monkeypatch.setenv("CDPATH", str(tmp_path / "base"))
    monkeypatch.setenv("TAR_OPTIONS", "--verbose --no-such-option")
    (tmp_path / "base").mkdir()
    return SlurmCluster(LocalTransport(channels=1), remote_base=str(tmp_path / "base"))


def test_our_commands_do_not_see_it(by_hand: SlurmCluster, tmp_path: Path) -> None:
    """`cd` printed where it went, and inputs and `clean` read that."""
    source = tmp_path / "in.csv"
    source.write_text("1\n")
    store = InputStore(by_hand, plan_staging(DataOptions(inputs=[source])).inputs, lambda text: None)
    store.upload()
    directory = created(by_hand)
    store.place(directory.work)
    assert Path(directory.work, "in.csv").read_text() == "1\n"
    assert len(look_at_all(by_hand).launches) == 1
    assert sizes_kib(by_hand, [f"runs/{directory.run}/{directory.key}"])


SCONTROL = "#!/bin/sh\necho 'Configuration data'\necho 'ClusterName             = {}'\n"


@pytest.mark.parametrize("name", ["SLURM_CLUSTERS", "SBATCH_CLUSTERS"])
def test_another_cluster_is_not_dropped_without_a_word(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Jobs went to the login node's own cluster."""

    def facts() -> object:
        return SlurmCluster(LocalTransport(channels=1), remote_base=str(tmp_path)).facts()

    monkeypatch.setenv(name, "beast")
    scontrol = Path(slurm.directory, "scontrol")
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    scontrol.chmod(0o755)
    with pytest.raises(SlurmUnavailableError, match="SLURM_CLUSTERS=beast"):
        facts()
    scontrol.write_text(SCONTROL.format("beauty"))
    with pytest.raises(ConfigurationError, match="SLURM_CLUSTERS=beast, and its own cluster is beauty"):
        facts()
    scontrol.write_text(SCONTROL.format("beast"))
    facts()


def test_the_jobs_do(by_hand: SlurmCluster, slurm: Slurm, tmp_path: Path) -> None:
    Path(slurm.directory, "sbatch").write_text(SBATCH)
    assert Claims(by_hand).submit(created(by_hand)) == "17"
    environment = Path(slurm.directory, "environment").read_text().splitlines()
    assert f"CDPATH={tmp_path / 'base'}" in environment
    assert "TAR_OPTIONS=--verbose --no-such-option" in environment


def test_no_name_of_ours_reaches_a_job_with_our_value(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nonce`, `script`, `claim`, `who` and others that a login exports were overwritten."""
    Path(slurm.directory, "sbatch").write_text(SBATCH)
    names = set()
    for package, name in (("transport.scripts", "channel.sh"), ("cluster_scripts", "submit.sh")):
        text = shell_file(f"dagster_slurm.{package}", name)
        names |= set(re.findall(r"\b([a-z_]+)=", text)) | set(re.findall(r"\bfor (\w+)(?: in|;)", text))
        names |= {word for words in re.findall(r"\bread -r ([\w ]+)", text) for word in words.split()}
    exported = {name: f"of the login {name}" for name in names if not name.startswith("login_")}
    assert {"dagster_slurm_claim", "dagster_slurm_nonce", "dagster_slurm_name"} <= set(exported)
    for name in ("nonce", "script", "name", "claim", "who", "attempt", "job", "log", "status", "now", "owns", "signal"):
        exported[name] = f"of the login {name}"
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    cluster = SlurmCluster(LocalTransport(channels=1), remote_base=str(tmp_path / "base"))
    Claims(cluster).submit(created(cluster))
    environment = Path(slurm.directory, "environment").read_text().splitlines()
    for name, value in exported.items():
        if not name.startswith("dagster_slurm_"):
            assert f"{name}={value}" in environment
