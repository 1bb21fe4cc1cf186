"""Profiles: where they are looked for, who may write them, what wins over them, and what of them is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm import (
    BashLauncher,
    ComputeResource,
    NoEnvironment,
    RayLauncher,
    SlurmQueueConfig,
    SlurmResource,
    SSHConnectionResource,
)
from dagster_slurm import profiles as module
from dagster_slurm.cli import cluster_of, way_of
from dagster_slurm.doctor.world import Asked, read_settings
from dagster_slurm.errors import ConfigurationError
from dagster_slurm.resources.call import work_of
from dagster_slurm.work.spec import WorkSpec

FULL = """
[vsc]
remote_base = "$DATA/runs"
status_poll_interval_seconds = 20

[vsc.ssh]
host = "login.cluster"
user = "me"
jump_host = {host = "gate.cluster"}

[vsc.queue]
partition = "cpu"
account = "p1"
extra_slurm_opts = {licenses = "scratch"}

[vsc.gpus]
partition = "gpu"
extra_slurm_opts = {mem_per_gpu = "20G"}

[vsc.launchers.ray]
network_interface = "ib0"
dashboard_port = 9000

[vsc.environment]
setup_commands = ["module load python/3.11"]
"""
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "DAGSTER_SLURM_")):
            monkeypatch.delenv(name)
    # No file of the user's or the site's counts.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(module, "_SITE", tmp_path / "site" / "profiles.toml")
    monkeypatch.chdir(tmp_path)
    yield


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, place: str = "config/dagster-slurm") -> Path:
        file = tmp_path / place / "profiles.toml"
        file.parent.mkdir(parents=True, mode=0o755)
        file.write_text(text)
        file.chmod(0o644)
        return file

    return write


def planned(slurm: SlurmResource, tmp_path: Path, **given: Any) -> WorkSpec:
    payload = tmp_path / "payload.sh"
    payload.write_text("true\n")
    return work_of(ComputeResource(mode="slurm", slurm=slurm), None, {"payload_path": payload, **given})


class TestPrecedence:
    def test_it_is_below_what_is_said_and_above_what_is_built_in(self, write: Write, tmp_path: Path) -> None:
        write(FULL)
        slurm = SlurmResource.from_profile("vsc", queue=SlurmQueueConfig(account="mine"))
        spec = planned(slurm, tmp_path, extra_slurm_opts={"time_limit": "01:00:00"})
        options = {
            name: (spec.request.sbatch_options()[name], who)
            for name, who in spec.option_sources.items()
            if name != "gpus-per-node"
        }
        assert options == {
            "account": ("mine", "resource"),
            "cpus-per-task": ("2", "built-in"),
            "licenses": ("scratch", "profile vsc"),
            "mem": ("4096M", "built-in"),
            "nodes": ("1", "built-in"),
            "partition": ("cpu", "profile vsc"),
            "time": ("01:00:00", "call"),
        }

    @pytest.mark.parametrize("asked", [{"gpus_per_node": 1}, {"gres": "gpu:2"}, {"gpus": "a100:1"}])
    def test_what_it_says_of_jobs_with_gpus(self, write: Write, tmp_path: Path, asked: Mapping[str, Any]) -> None:
        write(FULL)
        spec = planned(SlurmResource.from_profile("vsc"), tmp_path, extra_slurm_opts=asked)
        said = spec.request.sbatch_options()
        assert (said["partition"], said["mem-per-gpu"], "mem" in said) == ("gpu", "20G", False)
        assert spec.option_sources["partition"] == "profile vsc (gpus)"

    def test_the_gpus_may_be_those_that_a_launcher_asks_for(self, write: Write, tmp_path: Path) -> None:
        write(FULL)
        slurm, launcher = SlurmResource.from_profile("vsc"), RayLauncher(num_gpus_per_node=1)
        spec = planned(slurm, tmp_path, launcher=launcher)
        said = spec.request.sbatch_options()
        assert (said["partition"], said["mem-per-gpu"], "mem" in said) == ("gpu", "20G", False)
        sources = {name: spec.option_sources[name] for name in ("gpus-per-node", "partition")}
        assert sources == {"gpus-per-node": "launcher", "partition": "profile vsc (gpus)"}
        # Whoever says anything is stronger than a launcher.
        spec = planned(slurm, tmp_path, launcher=launcher, extra_slurm_opts={"gpus_per_node": 0})
        said = spec.request.sbatch_options()
        assert (said["partition"], said["mem"]) == ("cpu", "4096M")

    def test_a_launcher_gets_what_nobody_says_of_its_type(self, write: Write, tmp_path: Path) -> None:
        write(FULL)
        slurm = SlurmResource.from_profile("vsc")
        said = planned(slurm, tmp_path, launcher=RayLauncher(dashboard_port=8000)).said["launcher"]
        assert (said.value.network_interface, said.value.dashboard_port) == ("ib0", 8000)
        assert {name: part.source for name, part in said.parts.items()} == {
            "network_interface": "profile vsc",
            "dashboard_port": "call",
        }
        assert type(planned(slurm, tmp_path).said["launcher"].value) is BashLauncher

    def test_its_environment_counts_where_nobody_names_one(self, write: Write, tmp_path: Path) -> None:
        write(FULL)
        slurm = SlurmResource.from_profile("vsc")
        said = planned(slurm, tmp_path).said
        assert said["environment"].source == "profile vsc"
        assert said["profile"].value == "vsc"
        assert said["profile"].source.endswith("config/dagster-slurm/profiles.toml")
        compute = ComputeResource(mode="slurm", slurm=slurm, environment=NoEnvironment())
        assert (
            work_of(compute, None, {"payload_path": tmp_path / "payload.sh"}).said["environment"].source == "resource"
        )
        (tmp_path / "uv.lock").write_text("version = 1\n")
        (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
        assert planned(slurm, tmp_path).said["environment"].source == "built-in"

    def test_the_way_and_the_directory(self, write: Write) -> None:
        write(FULL)
        connection = SlurmResource.from_profile("vsc").connect()
        assert connection.cluster.host == "me@login.cluster"
        assert connection.cluster._remote_base == "$DATA/runs"
        own = SlurmResource.from_profile("vsc", ssh=SSHConnectionResource(host="other"), remote_base="/mine").connect()
        assert (own.cluster.host, own.cluster._remote_base) == ("other", "/mine")

    def test_in_mode_local_none_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "payload.sh").write_text("true\n")
        compute = ComputeResource(mode="local", slurm=None)
        assert "profile" not in work_of(compute, None, {"payload_path": tmp_path / "payload.sh"}).said


class TestWhere:
    def test_the_users_before_the_sites_before_entry_points(
        self, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def points(group: str) -> list[EntryPoint]:
            assert group == "dagster_slurm.profiles"
            return [EntryPoint("there", f"{__name__}:THERE", group), EntryPoint("made", f"{__name__}:made", group)]

        monkeypatch.setattr(module, "entry_points", points)
        assert module.profile_of("there").values == {"remote_base": "of the package"}
        assert module.profile_of("made").origin == "the entry points of dagster_slurm.profiles"
        write('[there]\nremote_base = "of the site"\n', "site")
        assert module.profile_of("there").values == {"remote_base": "of the site"}
        write('[there]\nremote_base = "of the user"\n')
        assert module.profile_of("there").values == {"remote_base": "of the user"}
        named = write('[there]\nremote_base = "of the variable"\n', "named")
        monkeypatch.setenv("DAGSTER_SLURM_PROFILES", str(named))
        assert module.profile_of("there").values == {"remote_base": "of the variable"}

    def test_the_variable_names_one_and_others_win_over_it(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        write(FULL)
        monkeypatch.setenv("DAGSTER_SLURM_PROFILE", "vsc")
        monkeypatch.setenv("SLURM_ACCOUNT", "p2")
        slurm = SlurmResource.from_env()
        assert slurm.connect().cluster.host == "me@login.cluster"
        assert slurm.default_options()["account"] == "p2"
        assert slurm.default_options()["partition"] == "cpu"
        monkeypatch.setenv("SLURM_EDGE_NODE_HOST", "another.cluster")
        assert SlurmResource.from_env().connect().cluster.host == "another.cluster"

    def test_the_command_line_takes_it(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        write(FULL)
        with pytest.raises(ConfigurationError, match="SLURM_EDGE_NODE_HOST is not set"):
            way_of("SLURM_EDGE_NODE_")
        monkeypatch.setenv("DAGSTER_SLURM_PROFILE", "vsc")
        assert way_of("SLURM_EDGE_NODE_").label == "me@login.cluster"
        with cluster_of("SLURM_EDGE_NODE_", local=True, remote_base=None) as cluster:
            assert cluster._remote_base == "$DATA/runs"
        settings = read_settings(Asked())
        assert settings.connection is not None
        assert (settings.connection.label, settings.remote_base) == ("me@login.cluster", "$DATA/runs")
        assert (settings.request.partition, settings.request.account) == ("cpu", "p1")
        assert read_settings(Asked(local=True)).connection is None
        monkeypatch.setenv("SLURM_EDGE_NODE_HOST", "another.cluster")
        assert way_of("SLURM_EDGE_NODE_").label == "another.cluster"

    def test_one_that_is_not_there(self, write: Write) -> None:
        write(FULL)
        with pytest.raises(ConfigurationError, match="There is no profile 'vcs'") as caught:
            SlurmResource.from_profile("vcs")
        assert "Did you mean 'vsc'? There are vsc. Looked in " in str(caught.value.hint)

    def test_a_file_that_the_variable_names_has_to_be_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DAGSTER_SLURM_PROFILES", "missing.toml")
        with pytest.raises(ConfigurationError, match=r"missing\.toml cannot be read"):
            module.profile_of("any")


THERE = {"remote_base": "of the package"}


def made() -> Mapping[str, Any]:
    return THERE


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('remotebase = "x"', "there is no remotebase", "Did you mean 'remote_base'?"),
        ('queue = "x"', "'queue' is 'x'", "[p.queue]"),
        ("queue.time = 1", "there is no queue.time", "time_limit"),
        ("queue.num_nodes = 0", "queue.num_nodes is not usable", "Correct it"),
        ("queue.time_limit = 01:00:00", "queue.time_limit is not usable", "Correct it"),
        ("gpus.partitions = 'x'", "there is no gpus.partitions", "'partition'"),
        ("ssh.hots = 'x'", "there is no ssh.hots", "'host'"),
        ("ssh.host = 'x'\nssh.password = 'secret'", "ssh.password cannot stand in a profile", "EnvVar"),
        ("ssh.host = 'x'\nssh.jump_host.password = 'secret'", "ssh.jump_host.password cannot", "EnvVar"),
        ("launchers.rays.ray_port = 1", "there is no launchers.rays", "'ray'"),
        ("launchers.ray.port = 1", "there is no launchers.ray.port", "ray_port"),
        ("environment.python = 'python3'", "environment.setup_commands is not usable", "Correct it"),
        ("profile = 'other'", "it has profile", "not made of others"),
    ],
)
def test_what_is_refused(write: Write, text: str, said: str, hint: str) -> None:
    write(f"[p]\n{text}\n")
    with pytest.raises(ConfigurationError) as caught:
        SlurmResource.from_profile("p")
    assert said.replace("it has profile", "profile cannot stand in a profile") in str(caught.value)
    assert hint in str(caught.value.hint)
    assert "secret" not in str(caught.value).replace("It is a secret", "")


class TestWhoMayWrite:
    @pytest.mark.parametrize("mode", [0o664, 0o646])
    def test_a_file_that_others_can_write_is_not_read(self, write: Write, mode: int) -> None:
        write(FULL).chmod(mode)
        with pytest.raises(ConfigurationError, match=r"can be written to by others \(mode 06") as caught:
            SlurmResource.from_profile("vsc")
        assert "chmod go-w" in str(caught.value.hint)

    def test_nor_one_in_a_directory_that_others_can_write(self, write: Write) -> None:
        file = write(FULL)
        file.parent.chmod(0o777)
        with pytest.raises(ConfigurationError, match="mode 0777"):
            SlurmResource.from_profile("vsc")
        file.parent.chmod(0o1777)
        assert SlurmResource.from_profile("vsc").profile == "vsc"

    def test_nor_one_that_belongs_to_somebody_else(self, write: Write) -> None:
        file = write(FULL)
        with pytest.raises(ConfigurationError, match="belongs to the user with the number 12345"):
            module.refuse_others(file, os.stat_result((0o100644, 0, 0, 1, 12345, 0, 0, 0, 0, 0)))

    def test_a_link_leads_to_a_directory_that_is_looked_at(self, write: Write, tmp_path: Path) -> None:
        file = write(FULL)
        target = tmp_path / "open" / "profiles.toml"
        target.parent.mkdir()
        target.parent.chmod(0o777)
        file.rename(target)
        file.symlink_to(target)
        with pytest.raises(ConfigurationError, match="mode 0777"):
            SlurmResource.from_profile("vsc")
