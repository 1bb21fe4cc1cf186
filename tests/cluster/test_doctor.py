"""The doctor on a real cluster: all is fine, and each of the broken set-ups is named in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dagster_slurm.cli import main
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.doctor import STEPS
from dagster_slurm.sandbox import Sandbox
from tests.support import forked
from tests.support.controller import controller_stopped
from tests.support.environments import copied_environment
from tests.support.terminals import assert_fits, lines_on_a_terminal

pytestmark = pytest.mark.cluster

DOCTOR = Path(sys.executable).with_name("dagster-slurm")
# A process of its own, and not a forked one.
STARTED = ("env",)
Done = subprocess.CompletedProcess[str]
Doctor = Callable[..., Done]
WRONG_PASSWORD = "not-the-password-7431"


@pytest.fixture(scope="session")
def environment(sandbox: Sandbox) -> str:
    return copied_environment(sandbox, "tests", ["dagster-pipes"])


@pytest.fixture
def doctor(sandbox: Sandbox, environment: str) -> Iterator[Doctor]:
    """Runs the command as a user does, with connections of its own."""
    control_dir = tempfile.mkdtemp(prefix="ssh-", dir="/tmp")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DAGSTER_"))}
    site = {**sandbox.env(), "DAGSTER_SLURM_SSH_CONTROL_DIR": control_dir, "DAGSTER_SLURM_SSH_CONTROL_PERSIST": "20s"}

    def run(*arguments: str, prefix: tuple[str, ...] = (), only: bool = False, **variables: str | None) -> Done:
        given = variables if only else {**site, **variables}
        environ = {**inherited, **{name: value for name, value in given.items() if value is not None}}
        argv = [*prefix, str(DOCTOR), "doctor", "--env-path", environment, *arguments]
        if not prefix:
            return forked.run(argv, env=environ, timeout=120)
        return subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )

    yield run
    for path in Path(control_dir).iterdir():
        if path.is_socket():
            subprocess.run(["ssh", "-S", str(path), "-O", "exit", "any"], capture_output=True, check=False)
    shutil.rmtree(control_dir)


def dependents(step: str) -> set[str]:
    found = {step}
    for each in STEPS:
        if found & set(each.needs):
            found.add(each.name)
    return found - {step}


def assert_names(done: Done, step: str, problem: str, remedy: str) -> None:
    """One line names the fault and what to do; what depends on it is not checked; the rest is fine."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr == ""
    rows = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    words = {line[9:23].strip(): line.split()[0] for line in rows[:-1]}
    named = [line for line in rows if line.startswith("WRONG")]
    assert len(named) == 1, done.stdout
    assert re.search(rf"^WRONG +{step} +.*{problem}.*\. .*{remedy}.*\.$", named[0]), named[0]
    left = [line[23:].partition(":")[0].split(", ") for line in rows if line.startswith("-")]
    assert {name for names in left for name in names} >= dependents(step)
    others = {name: word for name, word in words.items() if word not in ("ok", "-") and name != step}
    assert others == {}, done.stdout
    assert rows[-1].startswith(f"Wrong: {step};")


class TestAllIsFine:
    def test_every_step_is_ok_and_a_job_runs(self, sandbox: Sandbox, doctor: Doctor) -> None:
        before = sandbox.logins()
        done = doctor("--job", "--json", prefix=STARTED)
        told = json.loads(done.stdout)
        assert {each["step"]: each["status"] for each in told["findings"]} == {step.name: "ok" for step in STEPS}
        assert (done.returncode, done.stderr, told["status"], told["logins"]) == (0, "", "ok", 1)
        found = {each["step"]: each["found"] for each in told["findings"]}
        assert re.search(r"job \d+ on n\d, ", found["job"])
        assert "a step on one CPU began within the job" in found["sessions"]
        assert sandbox.logins() - before <= 2
        assert list((sandbox.home / "dagster_runs" / "runs").glob("doctor/*")) == []

    def test_on_a_terminal_no_line_is_too_long(self, sandbox: Sandbox, environment: str) -> None:
        variables = {**os.environ, **sandbox.env(), "SLURM_MEM": "100M"}
        code, lines = lines_on_a_terminal(["doctor", "--env-path", environment], variables)
        assert code == 0, lines
        assert_fits(lines)
        assert "-        not checked   job: only with --job, which submits a small one" in lines

    def test_a_second_run_uses_the_open_connection(self, sandbox: Sandbox, doctor: Doctor) -> None:
        doctor()
        before = sandbox.logins()
        done = doctor()
        assert (done.returncode, sandbox.logins() - before) == (0, 0)
        assert "was open" in done.stdout
        assert "0 logins" in done.stdout
        assert "1 login\n" in doctor("--fresh-login").stdout
        assert sandbox.logins() - before == 1

    def test_a_password_and_one_session(self, sandbox: Sandbox, doctor: Doctor) -> None:
        before = sandbox.logins(strict=True)
        done = doctor(**password_alone(sandbox))
        assert done.returncode == 0, done.stdout
        assert sandbox.logins(strict=True) - before <= 2
        assert sandbox.password() not in done.stdout + done.stderr
        assert "with a TTY" in done.stdout

    def test_nothing_is_left_behind(self, sandbox: Sandbox, doctor: Doctor) -> None:
        base = f"{sandbox.home}/made/by/the-doctor"
        done = doctor("--remote-base", base)
        assert done.returncode == 0, done.stdout
        assert not Path(sandbox.home, "made").exists()
        assert list((sandbox.home / "dagster_runs").glob(".dagster-slurm-doctor*")) == []

    def test_through_a_jump_host(self, sandbox: Sandbox, doctor: Doctor) -> None:
        done = doctor(**jump(sandbox))
        assert done.returncode == 0, done.stdout
        assert " through " in done.stdout

    def test_through_a_proxy_of_the_configuration(self, sandbox: Sandbox, doctor: Doctor) -> None:
        site = {name.removeprefix("SLURM_EDGE_NODE_"): value for name, value in sandbox.env().items()}
        known = f"UserKnownHostsFile={site['KNOWN_HOSTS_FILE']}"
        way = f"ssh -i {site['KEY_PATH']} -o {known} -p {site['PORT']} -W %h:%p {site['USER']}@{site['HOST']}"
        done = doctor(SLURM_EDGE_NODE_OPTS_EXTRA=f'-o "ProxyCommand={way}"')
        assert done.returncode == 0, done.stdout
        for step in ("name", "port"):
            assert re.search(rf"^- +not checked +{step}: .*ProxyCommand ssh \.\.\.", done.stdout, re.M), done.stdout

    def test_on_the_login_node_itself(self, sandbox: Sandbox, doctor: Doctor, tmp_path: Path) -> None:
        done = doctor("--local", "--json", "--remote-base", str(tmp_path), only=True, **sandbox.slurm_env())
        told = {each["step"]: each["status"] for each in json.loads(done.stdout)["findings"]}
        assert [name for name, status in told.items() if status == "wrong"] == []
        assert {told["name"], told["port"], told["host key"], told["connection"]} == {"skipped"}
        assert {told["login"], told["controller"], told["partition"], told["writing"]} == {"ok"}

    def test_noise_of_a_shell_is_told_and_does_no_harm(self, sandbox: Sandbox, doctor: Doctor) -> None:
        with noisy_shell(sandbox):
            done = doctor()
        assert done.returncode == 0, done.stdout
        assert "prints 6 bytes by itself" in done.stdout


def password_alone(sandbox: Sandbox, password: str | None = None) -> dict[str, str | None]:
    strict = sandbox.env(strict=True)
    return {**strict, "SLURM_EDGE_NODE_KEY_PATH": None, "SLURM_EDGE_NODE_PASSWORD": password or sandbox.password()}


def jump(sandbox: Sandbox) -> dict[str, str | None]:
    prefix = "SLURM_EDGE_NODE_"
    way = {name: value for name, value in sandbox.env().items() if name.startswith(prefix)}
    return {name.replace(prefix, f"{prefix}JUMP_"): value for name, value in way.items()}


@contextmanager
def noisy_shell(sandbox: Sandbox) -> Iterator[None]:
    file = sandbox.home / ".bashrc"
    before = file.read_bytes() if file.exists() else None
    file.write_text("echo noise\n")
    try:
        yield
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)


class TestTheTwelve:
    """Each broken set-up, made for real."""

    def test_wrong_host(self, doctor: Doctor) -> None:
        done = doctor(SLURM_EDGE_NODE_HOST="no-such-host.invalid")
        assert_names(done, "name", "no-such-host.invalid does not lead to an address", "Check the name")

    def test_port_that_is_closed(self, doctor: Doctor) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        done = doctor(SLURM_EDGE_NODE_PORT=str(port))
        assert_names(done, "port", f"Port {port} of 127.0.0.1 cannot be reached: Connection refused", "Check PORT")

    def test_port_of_another_service(self, doctor: Doctor) -> None:
        with mail_server() as port:
            done = doctor(SLURM_EDGE_NODE_PORT=str(port))
        assert_names(done, "port", f"At port {port} of 127.0.0.1 is no SSH server: it says '220 mail", "Check PORT")

    def test_key_that_is_not_authorised(self, sandbox: Sandbox, doctor: Doctor, tmp_path: Path) -> None:
        key = new_key(tmp_path)
        before = sandbox.logins()
        done = doctor(SLURM_EDGE_NODE_KEY_PATH=str(key))
        assert_names(done, "login", "The login was refused: .*Permission denied", f"{key} is in the account's")
        assert sandbox.logins() == before

    def test_key_that_is_not_there(self, doctor: Doctor) -> None:
        done = doctor(SLURM_EDGE_NODE_KEY_PATH="/nonexistent/key")
        assert_names(done, "settings", "The key file /nonexistent/key does not exist", "KEY_PATH")

    def test_wrong_password_is_one_attempt(self, sandbox: Sandbox, doctor: Doctor) -> None:
        log = sandbox.paths.log("strict-sshd")
        before = log.read_text().count(f"Failed password for {sandbox.user}")
        done = doctor(**password_alone(sandbox, WRONG_PASSWORD))
        assert_names(done, "login", "The (login|password) was refused", "Correct USER and PASSWORD")
        assert log.read_text().count(f"Failed password for {sandbox.user}") - before == 1
        assert WRONG_PASSWORD not in done.stdout

    def test_changed_host_key(self, sandbox: Sandbox, doctor: Doctor, tmp_path: Path) -> None:
        other = new_key(tmp_path).with_suffix(".pub").read_text().split()[:2]
        known = tmp_path / "known hosts"
        site = sandbox.env()
        known.write_text(f"[{site['SLURM_EDGE_NODE_HOST']}]:{site['SLURM_EDGE_NODE_PORT']} {' '.join(other)}\n")
        done = doctor(SLURM_EDGE_NODE_KNOWN_HOSTS_FILE=str(known))
        assert_names(done, "host key", "is not the one on record", f"ssh-keygen -R .* -f '{known}'")

    def test_unknown_host_key(self, doctor: Doctor, tmp_path: Path) -> None:
        known = tmp_path / "empty"
        known.touch()
        done = doctor(SLURM_EDGE_NODE_KNOWN_HOSTS_FILE=str(known))
        assert_names(done, "host key", "The host key is not known", "Log in once with `ssh`")

    def test_wrong_partition(self, doctor: Doctor) -> None:
        done = doctor(SLURM_PARTITION="nope")
        assert_names(done, "partition", "no partition 'nope'", "there are: compute, debug")

    def test_wrong_account(self, doctor: Doctor) -> None:
        done = doctor(SLURM_ACCOUNT="nope")
        assert_names(done, "request", r"Invalid account.*\(account 'nope'\)", "Known to this user .*: research")

    def test_no_sbatch(self, doctor: Doctor) -> None:
        with path_without("sbatch") as wrapper:
            done = doctor(SLURM_EDGE_NODE_POST_LOGIN_COMMAND=wrapper)
        assert_names(done, "commands", "Not on the PATH of the login node: sbatch", "extend PATH")

    def test_no_sacct(self, doctor: Doctor) -> None:
        with path_without("sacct") as wrapper:
            done = doctor(SLURM_EDGE_NODE_POST_LOGIN_COMMAND=wrapper)
        assert_names(done, "accounting", "Not on the PATH of the login node: sacct", "Extend PATH")

    def test_no_space(self, sandbox: Sandbox, doctor: Doctor) -> None:
        with sandbox.small_filesystem(4) as path:
            fill(path / "ballast")
            done = doctor(SLURM_REMOTE_BASE=f"{path}/runs")
        assert_names(done, "space", f"No space is left for {path}/runs", "Free space there, or choose")

    def test_unwritable_base(self, sandbox: Sandbox, doctor: Doctor) -> None:
        with sandbox.unwritable_directory() as path:
            done = doctor(SLURM_REMOTE_BASE=f"{path}/runs")
        assert_names(done, "writing", f"Cannot write {path}/runs: Permission denied", "SLURM_REMOTE_BASE")

    def test_a_base_with_somebody_else_s_directory(self, sandbox: Sandbox, doctor: Doctor) -> None:
        base = sandbox.home / "foreign-base"
        (base / "runs").mkdir(parents=True)
        shutil.chown(base, sandbox.user)
        shutil.chown(base / "runs", sandbox.config.users[0])
        try:
            done = doctor(SLURM_REMOTE_BASE=str(base))
        finally:
            shutil.rmtree(base)
        assert_names(done, "writing", f"Below remote_base {base}, 'runs' belongs to somebody else", "of your own")

    def test_clock_that_is_off(self, doctor: Doctor) -> None:
        if shutil.which("faketime") is None:
            assert not os.environ.get("CI"), "faketime is missing"
            pytest.skip("faketime is not installed")
        done = doctor(prefix=("faketime", "-f", "+120s"))
        assert_names(done, "clock", "This machine's clock is 120 s ahead of the login node's", "NTP")


class TestMoreThatBreaks:
    def test_the_accounting_is_away(self, sandbox: Sandbox, doctor: Doctor) -> None:
        with sandbox.broken("slurmdbd"):
            done = doctor()
        assert_names(done, "accounting", "sacct: ", "slurmdbd, the accounting daemon")

    def test_the_controller_is_away(self, sandbox: Sandbox, doctor: Doctor) -> None:
        with controller_stopped(sandbox):
            done = doctor()
        assert_names(done, "controller", "squeue: ", "slurmctld does not answer")

    def test_a_job_that_waits_too_long_is_cancelled(self, sandbox: Sandbox, doctor: Doctor) -> None:
        everything = ["sbatch", "--parsable", "--nodes=3", "--exclusive", "--wrap", "sleep 120"]
        blocker = sandbox.run(everything).stdout.strip()
        try:
            done = doctor("--job", "--job-timeout", "3")
        finally:
            sandbox.run(["scancel", blocker])
        assert done.returncode == 0, done.stdout
        said = re.search(r"^warning +job +Job (\d+) did not end within \d+ s \(PENDING.*cancelled", done.stdout, re.M)
        assert said, done.stdout
        left = sandbox.run(["squeue", "--noheader", "--format=%T", f"--jobs={said.group(1)}"]).stdout.split()
        assert left in ([], ["CANCELLED"])

    def test_a_job_of_the_same_number_is_left_alone(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """As after a controller that has lost its state, and gives the numbers anew."""
        stranger = sandbox.run(["sbatch", "--parsable", "--hold", "--wrap", "true"]).stdout.strip()
        for name, value in sandbox.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(Claims, "submit", lambda *args: stranger)
        try:
            done = CliRunner().invoke(main, ["doctor", "--job", "--job-timeout", "1"])
            left = sandbox.run(["squeue", "--noheader", "--format=%T", f"--jobs={stranger}"]).stdout.split()
        finally:
            sandbox.run(["scancel", stranger])
        assert f"Job {stranger} did not end within" in done.output
        assert left == ["PENDING"]

    def test_a_key_where_only_passwords_are_taken(self, sandbox: Sandbox, doctor: Doctor) -> None:
        done = doctor(SLURM_EDGE_NODE_PORT=sandbox.env(strict=True)["SLURM_EDGE_NODE_PORT"])
        assert_names(done, "login", r"Permission denied \(password\)", "takes no keys, only password: set PASSWORD")

    def test_a_time_limit_over_that_of_the_partition(self, doctor: Doctor) -> None:
        done = doctor(SLURM_PARTITION="debug")
        assert_names(done, "request", "Requested time limit is invalid", "Lower time_limit")

    def test_no_environment_at_that_path(self, doctor: Doctor) -> None:
        done = doctor("--env-path", "/nonexistent/environment")
        assert_names(done, "environment", "The environment /nonexistent/environment does not exist", "bin/python")

    def test_the_jump_host_is_not_there(self, sandbox: Sandbox, doctor: Doctor) -> None:
        done = doctor(**{**jump(sandbox), "SLURM_EDGE_NODE_JUMP_HOST": "no-such-jump.invalid"})
        assert_names(done, "name", "no-such-jump.invalid does not lead to an address", "Check the name")

    def test_settings_that_cannot_be_read(self, sandbox: Sandbox, doctor: Doctor) -> None:
        done = doctor(**{**password_alone(sandbox), "SLURM_EDGE_NODE_PORT": "99999"})
        assert_names(
            done, "settings", "SLURM_EDGE_NODE_PORT is not usable: 99999. Allowed are 1 to 65535", "configuration"
        )
        assert sandbox.password() not in done.stdout
        assert_names(doctor(only=True), "settings", "SLURM_EDGE_NODE_HOST is not set", "Set it")
        assert doctor("--no-such-option").returncode == 2


@contextmanager
def path_without(program: str) -> Iterator[str]:
    """A post_login_command that leaves everything on the PATH but one program."""
    directory = Path(tempfile.mkdtemp(prefix="path-", dir="/tmp"))
    directory.chmod(0o755)
    for file in Path("/usr/bin").iterdir():
        if file.name != program:
            (directory / file.name).symlink_to(file)
    yield f"env PATH={directory} sh -c {{cmd}}"
    shutil.rmtree(directory)


@contextmanager
def mail_server() -> Iterator[int]:
    """Something else than sshd that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_greet, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


def _greet(server: socket.socket) -> None:
    connection: Any
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"220 mail.example ESMTP\r\n")


def fill(file: Path) -> None:
    with pytest.raises(OSError, match="No space left"), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def new_key(directory: Path) -> Path:
    key = directory / "another-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key
