"""The configuration files are pure text, made of a configuration and a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import files, one_time_code
from dagster_slurm_sandbox.config import CONTROL, SandboxConfig, SandboxPaths, paths_of
from dagster_slurm_sandbox.network import Plan, choose_subnet
from dagster_slurm_sandbox.state import Remains, State, from_json, remains

PATHS = SandboxPaths(Path("/var/lib/dagster-slurm-sandbox/default"))
CONFIG = SandboxConfig(nodes=2, slurm_options={"MinJobAge": "7", "AccountingStoreFlags": "job_comment"})
PLAN = Plan(tag=PATHS.tag, subnet="10.213.17.0/24", names=(CONTROL, *CONFIG.node_names))


USERS = ["researcher", "second"]
OPENSSH = (9, 2)


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_slurm_conf_has_nodes_with_own_addresses_and_both_partitions() -> None:
    lines = files.slurm_conf(CONFIG, PATHS, PLAN, cgroups=True).splitlines()
    nodes = [line for line in lines if line.startswith("NodeName=")]
    assert [line.split()[2] for line in nodes] == ["NodeAddr=10.213.17.11", "NodeAddr=10.213.17.12"]
    assert all("CPUs=8 " in line and "RealMemory=16000 " in line for line in nodes)
    partitions = [line.split()[0] for line in lines if line.startswith("PartitionName=")]
    assert partitions == ["PartitionName=compute", "PartitionName=debug"]


def test_slurm_conf_points_every_client_at_the_own_munge() -> None:
    found = settings(files.slurm_conf(CONFIG, PATHS, PLAN, cgroups=True))
    assert found["AuthInfo"] == f"socket={PATHS.munge_socket},cred_expire={CONFIG.credential_seconds}"
    assert found["AccountingStoragePass"] == str(PATHS.munge_socket)
    assert settings(files.slurmdbd_conf(PATHS, PLAN))["AuthInfo"] == f"socket={PATHS.munge_socket}"


def test_slurm_conf_takes_further_lines_over_its_own() -> None:
    text = files.slurm_conf(CONFIG, PATHS, PLAN, cgroups=True)
    assert settings(text)["MinJobAge"] == "7"
    assert settings(text)["AccountingStoreFlags"] == "job_comment"
    assert text.count("MinJobAge=") == 1


@pytest.mark.parametrize(
    ("cgroups", "proctrack", "task", "constrain"),
    [(True, "proctrack/cgroup", "task/cgroup", "yes"), (False, "proctrack/linuxproc", "task/none", "no")],
)
def test_memory_is_constrained_only_with_cgroups(cgroups: bool, proctrack: str, task: str, constrain: str) -> None:
    found = settings(files.slurm_conf(CONFIG, PATHS, PLAN, cgroups=cgroups))
    assert (found["ProctrackType"], found["TaskPlugin"]) == (proctrack, task)
    assert settings(files.cgroup_conf(cgroups=cgroups))["ConstrainRAMSpace"] == constrain


def test_cgroup_conf_names_nothing_that_a_release_does_not_know() -> None:
    # 20.11.4: "unrecognized key: CgroupPlugin"; 24.11.5: "The option 'CgroupAutomount' is defunct".
    for cgroups in (True, False):
        assert not {"CgroupPlugin", "CgroupAutomount"} & set(settings(files.cgroup_conf(cgroups=cgroups)))


def test_each_node_has_a_directory_of_its_own_for_pmix() -> None:
    assert settings(files.mpi_conf(PATHS)) == {"PMIxCliTmpDirBase": str(PATHS.pmix)}


def test_nothing_but_loopback_for_sshd() -> None:
    text = files.sshd_config(files.SshdSite("sshd", 22022, strict=False), PATHS, USERS, openssh=OPENSSH)
    assert "ListenAddress 127.0.0.1:22022\n" in text
    assert text.count("ListenAddress") == 1
    assert f"SetEnv SLURM_CONF={PATHS.slurm_conf}\n" in text
    assert "PubkeyAuthentication yes\n" in text


def test_strict_sshd_takes_a_password_only_and_one_channel() -> None:
    text = files.sshd_config(files.SshdSite("strict-sshd", 22023, strict=True), PATHS, USERS, openssh=OPENSSH)
    for line in ("PubkeyAuthentication no", "KbdInteractiveAuthentication no", "MaxSessions 1"):
        assert f"{line}\n" in text
    assert "PasswordAuthentication yes\n" in text


def test_nobody_is_kept_away_for_what_others_do_from_the_same_address() -> None:
    site = files.SshdSite("sshd", 22022, strict=False)
    texts = {version: files.sshd_config(site, PATHS, USERS, openssh=version) for version in ((9, 7), (9, 8))}
    assert texts[9, 8] == texts[9, 7] + "PerSourcePenalties no\n"


def test_options_take_the_place_of_those_with_the_same_keyword_and_variables_are_added() -> None:
    text = files.overridden("Port 1\nSetEnv A=1\nSubsystem sftp x\n", ["subsystem sftp y z", "SetEnv B=2", "Match all"])
    assert text == "Port 1\nSetEnv B=2 A=1\nsubsystem sftp y z\nMatch all\n"


def test_one_time_codes_are_those_of_the_standard() -> None:
    # RFC 4226, appendix D.
    codes = [one_time_code.hotp(b"12345678901234567890", counter) for counter in range(4)]
    assert codes == ["755224", "287082", "359152", "969429"]


def test_hosts_names_all_and_keeps_what_was_there() -> None:
    lines = files.hosts(PLAN, "login", "127.0.0.1\tlocalhost\n").splitlines()
    assert lines == ["10.213.17.10\tctl", "10.213.17.11\tn1", "10.213.17.12\tn2", "10.213.17.1\tlogin", lines[-1]]
    assert lines[-1] == "127.0.0.1\tlocalhost"


def test_known_hosts_has_a_line_a_port() -> None:
    assert files.known_hosts([1, 2], "ssh-ed25519 AAAA comment\n") == (
        "[127.0.0.1]:1 ssh-ed25519 AAAA\n[127.0.0.1]:2 ssh-ed25519 AAAA\n"
    )


def test_interface_names_fit() -> None:
    names = Plan(tag=PATHS.tag, subnet="10.0.0.0/24", names=(CONTROL, *(f"n{n}" for n in range(1, 33))))
    assert all(len(each) <= 15 for each in (names.bridge, *map(names.veth, names.names)))
    assert len({names.veth(each) for each in names.names}) == 33


def test_subnet_avoids_routes_and_addresses() -> None:
    first = choose_subnet([])
    assert choose_subnet(["default", "10.213.17.5"]) != first
    assert choose_subnet(["10.213.0.0/16"]).startswith("10.214.")
    assert choose_subnet(["fd00::/8", "192.168.0.0/16"]) == first
    with pytest.raises(SandboxError, match="No subnet is free"):
        choose_subnet(["10.0.0.0/8"])


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 33])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(SandboxError, match="not a name"):
        SandboxConfig(name=name)


def test_too_long_a_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_SLURM_SANDBOX_DIR", "/tmp/" + "x" * 90)
    with pytest.raises(SandboxError, match="too long"):
        paths_of("default")


def test_state_is_read_back_and_another_version_refused(tmp_path: Path) -> None:
    state = State(CONFIG, "10.213.17.0/24", 22022, 22023, "login", "", user_created=True)
    assert from_json(state.to_json()) == state
    with pytest.raises(SandboxError, match="another version"):
        from_json(state.to_json().replace('"schema": 1', '"schema": 99'))
    paths = SandboxPaths(tmp_path)
    assert remains(paths) == Remains()
    paths.state_file.write_text(state.to_json().replace('"schema": 1', '"schema": 99, "later": 1'), encoding="utf-8")
    assert remains(paths) == Remains((), "researcher")
