"""Resources from environment variables: every variable, blank ones, and values that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from dagster_slurm import SlurmResource, SSHConnectionResource
from dagster_slurm.errors import ConfigurationError
from dagster_slurm.transport import SSHConnection
from dagster_slurm.variables import connection_from

Read = Callable[[str], SSHConnection]


def by_resource(prefix: str) -> SSHConnection:
    return SSHConnectionResource.from_env(prefix).connection()


@pytest.fixture(params=[by_resource, connection_from], ids=["resource", "command line"])
def read(request: pytest.FixtureRequest) -> Read:
    """What both read from the variables is the same."""
    return request.param


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SITE_", "DAGSTER_SLURM_")):
            monkeypatch.delenv(name)
    yield


def set_all(monkeypatch: pytest.MonkeyPatch, prefix: str, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"{prefix}{name}", value)


FULL = {
    "HOST": "login.example.org",
    "PORT": "2222",
    "USER": "me",
    "KEY_PATH": "/keys/id",
    "PASSWORD": "planted secret",
    "ASKPASS_COMMAND": "otp --now",
    "FORCE_TTY": "yes",
    "POST_LOGIN_COMMAND": "sudo -u svc sh -c {cmd}",
    "OPTS_EXTRA": "-o 'ProxyCommand=nc %h %p' -C",
    "HOST_KEY_CHECKING": "accept-new",
    "KNOWN_HOSTS_FILE": "/keys/known",
    "BATCH_MODE": "false",
}


@pytest.mark.parametrize("prefix", ["SITE_", "SITE"])
def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch, read: Read, prefix: str) -> None:
    set_all(monkeypatch, "SITE_", **FULL)
    monkeypatch.setenv("DAGSTER_SLURM_SSH_CONTROL_DIR", "/sockets")
    connection = read(prefix)
    assert connection.control_dir == "/sockets"
    assert (connection.host, connection.port, connection.user) == ("login.example.org", 2222, "me")
    assert (connection.key_path, connection.known_hosts_file) == ("/keys/id", "/keys/known")
    assert (connection.password, connection.askpass_command) == ("planted secret", "otp --now")
    assert (connection.force_tty, connection.batch_mode) == (True, False)
    assert connection.post_login_command == "sudo -u svc sh -c {cmd}"
    assert connection.extra_opts == ("-o", "ProxyCommand=nc %h %p", "-C")
    assert connection.host_key_checking == "accept-new"
    assert connection.jump is None


def test_jump_hosts_in_a_row(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    set_all(monkeypatch, "SITE_", HOST="target", JUMP_HOST="middle", JUMP_PASSWORD="p", JUMP_JUMP_HOST="first")
    hops = list(read("SITE_").hops())
    assert [hop.host for hop in hops] == ["target", "middle", "first"]
    assert [hop.password for hop in hops] == [None, "p", None]


def test_blank_counts_as_unset(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    set_all(monkeypatch, "SITE_", **{**dict.fromkeys(FULL, "  "), "HOST": "h", "KEY": "/k"})
    connection = read("SITE_")
    assert (connection.port, connection.user, connection.password) == (None, None, None)
    assert connection.key_path == "/k"


def test_no_secret_in_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, "SITE_", **FULL)
    resource = SSHConnectionResource.from_env("SITE_")
    assert "planted secret" not in repr(resource) + repr(resource.connection()) + str(resource)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "ssh"),
        ("PORT", "0"),
        ("PORT", "70000"),
        ("FORCE_TTY", "maybe"),
        ("BATCH_MODE", "2"),
        ("HOST_KEY_CHECKING", "lax"),
        ("OPTS_EXTRA", "-o 'open"),
        ("JUMP_PORT", "x"),
    ],
)
def test_values_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, read: Read, name: str, value: str
) -> None:
    set_all(monkeypatch, "SITE_", HOST="h", JUMP_HOST="j", PASSWORD="planted secret")
    monkeypatch.setenv(f"SITE_{name}", value)
    with pytest.raises(ConfigurationError, match=f"SITE_{name} ") as caught:
        read("SITE_")
    assert "planted secret" not in str(caught.value)


def test_missing_host_is_named() -> None:
    with pytest.raises(ConfigurationError, match="SLURM_EDGE_NODE_HOST is not set"):
        SlurmResource.from_env()


def test_cluster_and_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(
        monkeypatch,
        "SLURM_",
        PARTITION="gpu",
        TIME="02:00:00",
        CPUS="8",
        MEM_PER_CPU="2G",
        NUM_NODES="3",
        GPUS_PER_NODE="4",
        QOS="long",
        ACCOUNT="proj",
        RESERVATION="res",
        REMOTE_BASE="/scratch/me",
        SIGNAL_BEFORE_TIMEOUT="60",
        STATUS_POLL_INTERVAL="7",
        STATUS_POLL_MAX_INTERVAL="70",
        STATUS_POLL_BACKOFF="2",
        MAX_SUBMISSIONS_PER_SECOND="5",
    )
    cluster = SlurmResource.from_env_slurm(None)
    assert cluster.remote_base == "/scratch/me"
    assert (cluster.status_poll_interval_seconds, cluster.status_poll_max_interval_seconds) == (7.0, 70.0)
    assert (cluster.status_poll_backoff, cluster.max_submissions_per_second) == (2.0, 5.0)
    assert cluster.default_options() == {
        "partition": "gpu",
        "time_limit": "02:00:00",
        "cpus": 8,
        "mem_per_cpu": "2G",
        "num_nodes": 3,
        "gpus_per_node": 4,
        "qos": "long",
        "account": "proj",
        "reservation": "res",
        "signal_before_timeout": "60",
    }


@pytest.mark.parametrize(("name", "value"), [("CPUS", "0"), ("CPUS", "many"), ("STATUS_POLL_INTERVAL", "-1")])
def test_queue_values_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ConfigurationError, match=f"SLURM_{name} "):
        SlurmResource.from_env_slurm(None)
