"""`dagster-slurm login` on a terminal, and what uses its connection."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from collections.abc import Iterator

import pytest

from dagster_slurm.errors import AuthenticationError
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport import OpenSSHTransport
from tests.ssh import connection_of, control_directory
from tests.support import forked

pytestmark = pytest.mark.cluster

COMMAND = [sys.executable, "-m", "dagster_slurm.cli", "login"]


@pytest.fixture
def environment(sandbox: Sandbox) -> Iterator[dict[str, str]]:
    """The strict site, without the password, and a directory of its own for the connection."""
    site = {name: value for name, value in sandbox.env(strict=True).items() if not name.endswith("PASSWORD")}
    with control_directory() as control_dir:
        variables = {**os.environ, **site, "DAGSTER_SLURM_SSH_CONTROL_DIR": control_dir}
        yield variables
        forked.run([*COMMAND, "--end"], env=variables)


def on_a_terminal(argv: list[str], env: dict[str, str], answers: dict[str, str]) -> tuple[int, str]:
    """Run a command on a terminal of its own and type the answers to what it asks."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, env)
    shown, waiting, deadline = "", dict(answers), time.monotonic() + 40.0
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 0.5)
        try:
            block = os.read(terminal, 4096) if ready else b""
        except OSError:
            break
        shown += block.decode("utf-8", "replace")
        for prompt in [prompt for prompt in waiting if prompt in shown]:
            os.write(terminal, f"{waiting.pop(prompt)}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def status(env: dict[str, str], *options: str) -> int:
    return forked.run([*COMMAND, *options], env=env).returncode


def test_log_in_check_use_and_end(environment: dict[str, str], sandbox: Sandbox) -> None:
    assert status(environment, "--check") == 1
    logins = sandbox.logins(strict=True)
    code, shown = on_a_terminal(COMMAND, environment, {"password:": sandbox.password()})
    assert (code, sandbox.logins(strict=True) - logins) == (0, 1), shown
    assert "Connected to" in shown
    assert sandbox.password() not in shown
    assert status(environment, "--check") == 0
    for options in ({}, {"password": "not needed, and never sent"}):
        transport = OpenSSHTransport(connection_of(environment, **options), channels=1)
        assert transport.run("echo through").text == "through\n"
        assert transport.is_shared
        transport.close()
    assert sandbox.logins(strict=True) - logins == 1
    assert status(environment, "--end") == 0
    assert status(environment, "--check") == 1


def test_wrong_password_on_the_terminal(environment: dict[str, str]) -> None:
    code, shown = on_a_terminal(COMMAND, environment, {"password:": "wrong"})
    assert code == 1
    assert "Permission denied" in shown
    assert "Traceback" not in shown


def test_without_a_login_the_error_names_the_command(environment: dict[str, str]) -> None:
    transport = OpenSSHTransport(connection_of(environment))
    with pytest.raises(AuthenticationError) as caught:
        transport.run("true")
    assert "dagster-slurm login" in str(caught.value)
