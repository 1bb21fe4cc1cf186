"""What is run before a login, and what becomes of a login where that fails."""

from dataclasses import replace
from pathlib import Path

import pytest

from dagster_slurm import SSHConnectionResource
from dagster_slurm.errors import AuthenticationError
from dagster_slurm.transport import SSHConnection
from dagster_slurm.transport.login import Login


def connection(command: str, host: str = "login.example.org") -> SSHConnection:
    ssh = SSHConnectionResource(host=host, user="me", before_connect=command).connection()
    assert ssh.before_connect == command
    return ssh


def test_it_is_run_before_each_login_of_each_hop(tmp_path: Path) -> None:
    jump = connection(f"sh -c 'echo jump >>{tmp_path}/said'", "gate.example.org")
    with Login(replace(connection(f"sh -c 'echo login >>{tmp_path}/said'"), jump=jump)):
        pass
    assert (tmp_path / "said").read_text().split() == ["login", "jump"]


def test_who_has_none_runs_none() -> None:
    with Login(SSHConnection("login.example.org")):
        pass


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("sh -c 'echo expired >&2; exit 3' secret", "`sh`, ended with exit code 3: expired"),
        ("sh -c 'echo expired; exit 3'", "`sh`, ended with exit code 3: expired"),
        ("/no/such/program --token secret", "`/no/such/program`, cannot be run: "),
        ("sh -c 'true", "`sh`, cannot be run: No closing quotation"),
        (" ", "cannot be run: "),
    ],
)
def test_a_failure_is_the_login_s(command: str, problem: str) -> None:
    with pytest.raises(AuthenticationError) as failed, Login(connection(command)):
        raise AssertionError("nobody logs in")
    assert problem in failed.value.message
    assert "secret" not in str(failed.value)
    assert failed.value.host == "me@login.example.org"


def test_it_is_no_other_way() -> None:
    assert connection("true").way() == connection("false").way()
