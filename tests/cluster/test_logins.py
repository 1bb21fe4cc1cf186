"""How often, and how, real runs and real transports log in: counted in the log of an sshd of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm.cluster import FilePosition, SlurmCluster
from dagster_slurm.errors import AuthenticationError, HostKeyError
from dagster_slurm.sandbox import LoginNode, Sandbox
from dagster_slurm.transport import OpenSSHTransport, SSHConnection, TreeEntry
from dagster_slurm_sandbox.login_node import pam_service
from dagster_slurm_sandbox.one_time_code import hotp
from tests.faults.login import login_node_with
from tests.ssh import connection_of, control_directory, opened
from tests.support import forked
from tests.support.environments import copied_environment
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

NO_KEYS = "PubkeyAuthentication no"
POLLING = "Streaming .* via polling fallback \\(ControlMaster unavailable\\)"
RUN = Path(__file__).with_name("one_run.py")


@dataclass
class Client:
    """A process of its own with a Dagster run of its own, which starts when it is told to."""

    process: forked.Process
    report: Path

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("{}\n")
        self.process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        said = self.process.communicate(timeout=180)
        assert self.process.returncode == 0, said
        return dict(json.loads(self.report.read_text()))


@pytest.fixture
def control_dir() -> Iterator[str]:
    with control_directory() as path:
        yield path


@pytest.fixture
def launched(sandbox: Sandbox, tmp_path: Path, control_dir: str) -> Iterator[Callable[..., Client]]:
    """Launches processes that are ready to start a run of a payload."""
    environment = copied_environment(sandbox, "tests", ["dagster-pipes"])
    clients: list[Client] = []

    def launch(node: LoginNode, payload: str, *, password: bool = False) -> Client:
        number = len(clients)
        path, report = tmp_path / f"payload{number}.py", tmp_path / f"report{number}.json"
        path.write_text(payload)
        base = f"~/test-runs/{tmp_path.name}"
        with (tmp_path / f"stderr{number}").open("w") as errors:
            process = forked.start(
                [sys.executable, str(RUN), str(path), base, environment, str(report)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **node.env(password=password), "DAGSTER_SLURM_SSH_CONTROL_DIR": control_dir},
            )
        clients.append(Client(process, report))
        return clients[-1]

    yield launch
    for client in clients:
        client.process.kill()
        client.process.wait()


def await_ready(client: Client) -> None:
    assert client.process.stdout is not None
    assert client.process.stdout.readline() == "ready\n"


def test_processes_that_start_a_run_at_once_log_in_once(sandbox: Sandbox, launched: Callable[..., Client]) -> None:
    with sandbox.login_node() as node:
        clients = [launched(node, "print('ran')\n") for _ in range(4)]
        for client in clients:
            await_ready(client)
        for client in clients:
            client.start()
        reports = [client.finish() for client in clients]
        assert [report["success"] for report in reports] == [True] * 4
        assert len({report["metadata"]["slurm_job_id"] for report in reports}) == 4
        assert node.logins() == 1
        assert node.failures() == 0


LINES = 60
TALKATIVE = """
import time
for number in range(LINES):
    print(f"sent {number} {time.time():.6f}", flush=True)
    time.sleep(0.1)
"""


def delays_of(client: Client, lines: int) -> list[float]:
    """How late each line of a talkative payload arrives, in seconds, the least first; each has to arrive once."""
    assert client.process.stdout is not None
    arrivals = [(line, time.time()) for line in client.process.stdout if line.startswith("sent ")]
    assert [int(line.split()[1]) for line, _ in arrivals] == list(range(lines))
    return sorted(at - float(line.split()[2]) for line, at in arrivals)


def test_a_run_with_a_password_and_one_session_logs_in_once(
    sandbox: Sandbox, launched: Callable[..., Client], record_property: Callable[[str, object], None]
) -> None:
    with sandbox.login_node(options=[NO_KEYS, "MaxSessions 1"]) as node:
        client = launched(node, TALKATIVE.replace("LINES", str(LINES)), password=True)
        await_ready(client)
        client.start()
        delays = delays_of(client, LINES)
        report = client.finish()
        assert node.logins() == 1
        assert node.failures() == 0
    assert report["success"]
    figures = (
        f"median {statistics.median(delays):.2f} s, 95 % {delays[LINES * 95 // 100]:.2f} s, max {delays[-1]:.2f} s"
    )
    record_property("delay", figures)
    print(f"\nlog delay with a password and MaxSessions 1: {figures}")
    assert statistics.median(delays) < 1
    said = [message for level, message in report["messages"] if level == "DEBUG" and re.search(POLLING, message)]
    assert len(said) == 1


# It answers when the test lets it.
HELD_SQUEUE = """#!/bin/sh
: >"$HOME/squeue-asked"
mkdir "$HOME/squeue-out" || : >"$HOME/squeue-asked-twice"
until [ -e "$HOME/squeue-may-go" ]; do sleep 0.1; done
rmdir "$HOME/squeue-out"
exec /usr/bin/squeue "$@"
"""
ECHOING = """
import os, sys, time
while not os.path.exists(os.path.expanduser("~/squeue-asked")):
    time.sleep(0.1)
for number in range(20):
    print(f"sent {number}", flush=True)
    time.sleep(0.1)
sys.exit(3)
"""


def test_a_slow_squeue_holds_no_line_up(sandbox: Sandbox, launched: Callable[..., Client], tmp_path: Path) -> None:
    """Nor is it asked again before it has answered. A bad end is asked about as well."""
    with login_node_with(sandbox, tmp_path / "login", programs={"squeue": HELD_SQUEUE}) as node:
        client = launched(node, ECHOING)
        await_ready(client)
        client.start()
        assert client.process.stdout is not None
        arrived = (line for line in client.process.stdout if line.startswith("sent "))
        assert [next(arrived) for _ in range(20)] == [f"sent {number}\n" for number in range(20)]
        assert not (sandbox.home / "squeue-may-go").exists()
        (sandbox.home / "squeue-may-go").touch()
        report = client.finish()
    assert not report["success"]
    assert not (sandbox.home / "squeue-asked-twice").exists()


TOTP = """#!{python}
import time
from pathlib import Path
from {program} import hotp
secret, _ = Path("{state}").read_text().split()
print(hotp(bytes.fromhex(secret), int(time.time()) // 30))
"""


class TestSlowLogins:
    """A login that takes 3 s is made once, and what follows it is as fast as elsewhere."""

    @pytest.fixture(params=[pytest.param("key", marks=pytest.mark.all_faults), "code"])
    def slow(self, request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[tuple[LoginNode, bool]]:
        """A login node that takes so long, and whether it asks for a password and a code."""
        if request.param == "code":
            with sandbox.login_node(otp=True) as node:
                service = pam_service(sandbox.paths, node.directory.name)
                service.write_text(f"auth optional pam_exec.so {shutil.which('sleep')} 3\n{service.read_text()}")
                yield node, True
            return
        with sandbox.login_node(options=slow_keys(sandbox)) as node:
            yield node, False

    def test_requests_and_uploads(self, slow: tuple[LoginNode, bool], control_dir: str, tmp_path: Path) -> None:
        node, code = slow
        large = tmp_path / "large"
        large.write_bytes(os.urandom(20_000_000))
        with opened(connection_of(node.env(password=code), control_dir=control_dir)) as transport:
            began = time.monotonic()
            transport.run(":")
            assert 3.0 <= time.monotonic() - began < 10.0
            directory = transport.run("mktemp -d").text.strip()
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(transport.run, ["echo on"] * 20))
            transport.put(large, f"{directory}/large")
            transport.put_tree([TreeEntry(f"{number}", b"x") for number in range(100)], f"{directory}/tree")
            assert transport.read_from(f"{directory}/large", 0, 5) == large.read_bytes()[:5]
            transport.command(["rm", "-rf", "--", directory])
        # Each would have cost three seconds more.
        assert node.logins() == 1
        assert (node.logins(), node.failures()) == (1, 0)

    def test_runs(self, slow: tuple[LoginNode, bool], launched: Callable[..., Client]) -> None:
        """One process with a code, four at the same moment with a key."""
        node, code = slow
        clients = [launched(node, TALKATIVE.replace("LINES", "30"), password=code) for _ in range(1 if code else 4)]
        for client in clients:
            await_ready(client)
        for client in clients:
            client.start()
        delays = delays_of(clients[0], 30)
        assert all(client.finish()["success"] for client in clients)
        assert statistics.median(delays) < 1
        assert (node.logins(), node.failures()) == (1, 0)


class TestPasswords:
    """What is typed where, and how often."""

    def test_a_wrong_password_is_one_attempt(self, sandbox: Sandbox, control_dir: str) -> None:
        with sandbox.login_node(options=[NO_KEYS]) as node:
            with opened(connection_of(node.env(password=True), password="wr0ng", control_dir=control_dir)) as transport:
                for _ in range(2):
                    with pytest.raises(AuthenticationError, match="refused") as caught:
                        transport.run("true")
            assert "wr0ng" not in str(caught.value)
            assert caught.value.hint
            assert_refused_once(node)

    def test_a_wrong_password_is_one_attempt_where_pam_asks(self, sandbox: Sandbox, control_dir: str) -> None:
        options = [NO_KEYS, "PasswordAuthentication no"]
        with sandbox.login_node(options=options) as node:
            connection = connection_of(node.env(password=True), password="wr0ng", control_dir=control_dir)
            with opened(connection) as transport, pytest.raises(AuthenticationError, match="refused"):
                transport.run("true")
            assert_refused_once(node)

    def test_a_password_is_typed_into_no_other_prompt(self, sandbox: Sandbox, control_dir: str) -> None:
        with sandbox.login_node(otp=True) as node:
            connection = connection_of(node.env(password=True), askpass_command=None, control_dir=control_dir)
            with opened(connection) as transport, pytest.raises(AuthenticationError) as caught:
                transport.run("true")
            assert "asks for" in caught.value.message
            assert "One-time password (OATH)" in caught.value.message
            assert "askpass_command" in str(caught.value.hint)
            eventually(lambda: "Connection closed by authenticating user" in node.log.read_text())
            # An attempt with a wrong code would be logged as failed.
            assert (node.failures(), node.logins()) == (0, 0)

    def test_a_wrong_code_is_one_attempt(self, sandbox: Sandbox, control_dir: str) -> None:
        with sandbox.login_node(otp=True) as node:
            connection = connection_of(node.env(password=True), askpass_command="echo 000000", control_dir=control_dir)
            with opened(connection) as transport, pytest.raises(AuthenticationError, match="refused"):
                transport.run("true")
            assert_refused_once(node)

    def test_a_code_made_from_the_time(self, sandbox: Sandbox, control_dir: str, tmp_path: Path) -> None:
        """TOTP (RFC 6238): HOTP with the number of the half minute as its counter."""
        with sandbox.login_node(otp=True) as node:
            known = node.directory / "codes"
            known.write_text(known.read_text().replace("HOTP ", "HOTP/T30/6 ", 1))
            ask = tmp_path / "ask"
            ask.write_text(TOTP.format(python=sys.executable, state=node.directory / "device", program=hotp.__module__))
            ask.chmod(0o700)
            connection = connection_of(node.env(password=True), askpass_command=str(ask), control_dir=control_dir)
            with opened(connection) as transport:
                assert transport.run("echo in").text == "in\n"
                assert transport.run("echo on").text == "on\n"
            assert (node.logins(), node.failures()) == (1, 0)

    def test_a_connection_made_beforehand_is_used_in_place_of_the_password(
        self, sandbox: Sandbox, control_dir: str
    ) -> None:
        with sandbox.login_node(otp=True) as node:
            connection = connection_of(node.env(password=True), control_dir=control_dir)
            beforehand = (
                "import os\n"
                "from dagster_slurm.transport.openssh import ControlMaster\n"
                "from tests.ssh import connection_of\n"
                f"ControlMaster(connection_of(dict(os.environ), control_dir={control_dir!r})).ensure()\n"
            )
            own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
            env = {**own, **node.env(password=True), "PYTHONPATH": str(Path(__file__).parents[2])}
            assert forked.run([sys.executable, "-c", beforehand], env=env).returncode == 0
            assert node.logins() == 1
            for _ in range(2):
                transport = OpenSSHTransport(connection)
                assert transport.run("echo in").text == "in\n"
                assert transport.is_shared
                transport.close()
            assert node.logins() == 1
            transport.disconnect()


class TestKeys:
    """Keys that are protected, held by an agent, or named in ~/.ssh/config."""

    @pytest.fixture
    def protected(self) -> Iterator[Path]:
        """A key that only a passphrase opens, and beside it a file that the login node's user can read."""
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:
            Path(directory).chmod(0o755)
            key = Path(directory) / "protected"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "p4ss phrase", "-f", str(key)], check=True)
            Path(f"{key}.pub").rename(key.with_name("authorized"))
            yield key

    def test_a_passphrase_comes_from_the_command(
        self, sandbox: Sandbox, protected: Path, control_dir: str, tmp_path: Path
    ) -> None:
        ask = tmp_path / "ask"
        ask.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" >>{tmp_path}/asked\necho "p4ss phrase"\n')
        ask.chmod(0o700)
        with authorizing(sandbox, protected) as node:
            connection = connection_of(
                node.env(), key_path=str(protected), askpass_command=str(ask), control_dir=control_dir
            )
            with opened(connection) as transport:
                assert transport.run("echo in").text == "in\n"
            assert (node.logins(), node.failures()) == (1, 0)
        assert "passphrase" in (tmp_path / "asked").read_text()

    def test_without_anybody_to_ask_a_passphrase_is_refused(
        self, sandbox: Sandbox, protected: Path, control_dir: str
    ) -> None:
        with authorizing(sandbox, protected) as node:
            connection = connection_of(node.env(), key_path=str(protected), control_dir=control_dir)
            with opened(connection) as transport, pytest.raises(AuthenticationError):
                transport.run("true")

    def test_an_agent(
        self, sandbox: Sandbox, protected: Path, control_dir: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-p", "-P", "p4ss phrase", "-N", "", "-f", str(protected)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        socket = f"{control_dir}/agent"
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
        try:
            eventually(lambda: Path(socket).is_socket())
            monkeypatch.setenv("SSH_AUTH_SOCK", socket)
            subprocess.run(["ssh-add", "-q", str(protected)], check=True)
            protected.unlink()
            with authorizing(sandbox, protected) as node:
                connection = connection_of(node.env(), key_path=None, control_dir=control_dir)
                with opened(connection) as transport:
                    assert transport.run("echo in").text == "in\n"
                    assert transport.is_shared
                assert node.logins() == 1
        finally:
            agent.kill()
            agent.wait()

    def test_the_configuration_of_openssh_alone(self, sandbox: Sandbox, control_dir: str, tmp_path: Path) -> None:
        with sandbox.login_node() as node, sandbox.login_node() as gate:
            config = tmp_path / "config"
            config.write_text(
                f"Host gate\n    Port {gate.port}\n"
                f"Host cluster\n    Port {node.port}\n    ProxyJump gate\n"
                # What others have in theirs for working by hand.
                "    RemoteCommand tmux new -A\n    RequestTTY force\n    LocalForward 1 localhost:1\n"
                "    ExitOnForwardFailure yes\n    ControlMaster auto\n    ControlPath /nowhere/%C\n"
                f"Host *\n    HostName 127.0.0.1\n    User {node.user}\n    IdentityFile {node.client_key}\n"
                f"    UserKnownHostsFile {node.known_hosts} {gate.known_hosts}\n"
            )
            for checking in ("inherit", "strict"):
                connection = SSHConnection(
                    "cluster",
                    extra_opts=("-F", str(config)),
                    host_key_checking=checking,  # type: ignore[arg-type]
                    control_dir=control_dir,
                )
                with opened(connection) as transport:
                    assert transport.run("id -un").text == f"{node.user}\n"
                    assert transport.is_shared
            assert (node.logins(), gate.logins()) == (2, 2)


class TestJumpHosts:
    """Each hop has a host-key policy of its own."""

    @pytest.mark.parametrize("checking", ["strict", "accept-new"])
    def test_a_changed_key_at_the_jump_host(
        self, sandbox: Sandbox, control_dir: str, tmp_path: Path, checking: str
    ) -> None:
        with sandbox.login_node() as node, sandbox.login_node() as gate:
            known = known_by_another_key(gate, tmp_path)
            jump = connection_of(gate.env(), known_hosts_file=str(known), host_key_checking=checking)
            with (
                opened(connection_of(node.env(), jump=jump, control_dir=control_dir)) as transport,
                pytest.raises(HostKeyError, match="not the one on record") as caught,
            ):
                transport.run("true")
            assert f"[127.0.0.1]:{gate.port}" in str(caught.value)
            assert "ssh-keygen -R" in str(caught.value.hint)
            assert (node.logins(), gate.logins()) == (0, 0)

    def test_an_unknown_key_at_the_jump_host(self, sandbox: Sandbox, control_dir: str, tmp_path: Path) -> None:
        known = tmp_path / "known"
        known.touch()
        with sandbox.login_node() as node, sandbox.login_node() as gate:
            jump = connection_of(gate.env(), known_hosts_file=str(known))
            with (
                opened(connection_of(node.env(), jump=jump, control_dir=control_dir)) as transport,
                pytest.raises(HostKeyError, match="not known") as caught,
            ):
                transport.run("true")
            assert f"[127.0.0.1]:{gate.port}" in str(caught.value)
            assert (node.logins(), gate.logins()) == (0, 0)

    def test_a_policy_holds_for_one_hop_only(self, sandbox: Sandbox, control_dir: str, tmp_path: Path) -> None:
        with sandbox.login_node() as node, sandbox.login_node() as gate:
            changed = str(known_by_another_key(gate, tmp_path))
            jump = connection_of(gate.env(), host_key_checking="off", known_hosts_file=changed)
            with opened(connection_of(node.env(), jump=jump, control_dir=control_dir)) as transport:
                assert transport.run("echo in").text == "in\n"
            unknown = str(tmp_path / "none")
            connection = connection_of(node.env(), jump=jump, known_hosts_file=unknown, control_dir=control_dir)
            with opened(connection) as transport, pytest.raises(HostKeyError, match="not known") as caught:
                transport.run("true")
            assert f"[127.0.0.1]:{node.port}" in str(caught.value)

    def test_a_wrong_password_at_the_jump_host_is_one_attempt(self, sandbox: Sandbox, control_dir: str) -> None:
        with sandbox.login_node(options=[NO_KEYS]) as gate, sandbox.login_node() as node:
            jump = connection_of(gate.env(password=True), password="wr0ng")
            with (
                opened(connection_of(node.env(), jump=jump, control_dir=control_dir)) as transport,
                pytest.raises(AuthenticationError, match="refused"),
            ):
                transport.run("true")
            assert_refused_once(gate)
            assert node.logins() == 0


HOLD = """
import os, sys
from dagster_slurm.transport import OpenSSHTransport
from tests.ssh import connection_of
transport = OpenSSHTransport(connection_of(dict(os.environ), force_tty=True, control_dir=sys.argv[1]))
print(transport.run("echo $$").text, flush=True)
sys.stdin.read()
"""


class TestStrictServers:
    """Servers that count."""

    @pytest.mark.parametrize("password", [True, False], ids=["direct", "shared"])
    def test_a_killed_process_leaves_no_session_with_a_tty(
        self, sandbox: Sandbox, control_dir: str, password: bool
    ) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        with sandbox.login_node() as node:
            env = {**own, **node.env(password=password), "PYTHONPATH": str(Path(__file__).parents[2])}
            argv = [sys.executable, "-c", HOLD, control_dir]
            holder = forked.start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
            assert holder.stdout is not None
            shell = Path("/proc", holder.stdout.readline().strip())
            assert shell.is_dir()
            holder.kill()
            holder.wait()
            eventually(lambda: not shell.exists())

    def test_threads_on_a_server_with_one_session_log_in_once(self, sandbox: Sandbox, control_dir: str) -> None:
        with sandbox.login_node(options=["MaxSessions 1"]) as node:
            with opened(connection_of(node.env(), control_dir=control_dir)) as transport:
                threads = [threading.Thread(target=transport.run, args=("sleep 0.2",)) for _ in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert transport.run("echo on").text == "on\n"
            assert node.logins() == 1

    def test_who_waits_for_something_else_holds_no_channel(self, sandbox: Sandbox, control_dir: str) -> None:
        """Eight that wait for a lock of the ninth, with all channels of the connection idle in their hands."""
        with sandbox.login_node() as node, ExitStack() as stack:
            connection = connection_of(node.env(), control_dir=control_dir)
            waiting = [stack.enter_context(opened(connection)) for _ in range(8)]
            assert [transport.run("echo in").text for transport in waiting] == ["in\n"] * 8
            assert stack.enter_context(opened(connection)).run("echo on").text == "on\n"
            assert [transport.run("echo again").text for transport in waiting] == ["again\n"] * 8
            shutil.rmtree(control_dir)
            # Nobody can wait there any more, and the shells that are open are good.
            assert waiting[-1].run("echo still").text == "still\n"
            assert node.logins() == 1

    def test_a_server_that_takes_one_login_at_a_time(self, sandbox: Sandbox, control_dir: str) -> None:
        with sandbox.login_node(options=["MaxStartups 1", "LoginGraceTime 10"]) as node:
            with opened(connection_of(node.env(), control_dir=control_dir)) as transport:
                for _ in range(5):
                    assert transport.run("echo in").text == "in\n"
            assert node.logins() == 1

    def test_a_command_without_a_place_for_ours_comes_first(self, sandbox: Sandbox, control_dir: str) -> None:
        with sandbox.login_node() as node:
            connection = connection_of(node.env(), control_dir=control_dir, post_login_command="export MARK='a b'")
            with opened(connection) as transport:
                assert transport.run('echo "$MARK"').text == "a b\n"


def slow_keys(sandbox: Sandbox) -> list[str]:
    """Options of an sshd that takes 3 s to look up a key: half when it is offered, half for its signature."""
    script = f"sleep 1.5; exec cat {sandbox.paths.ssh}/authorized_keys"
    command = f'AuthorizedKeysCommand {shutil.which("sh")} -c "{script}"'
    return ["AuthorizedKeysFile none", command, "AuthorizedKeysCommandUser root"]


def authorizing(sandbox: Sandbox, key: Path) -> Any:
    """A login node that lets in whoever has that key."""
    # Else sshd takes no keys from below /tmp, where everybody can write (sshd_config(5)).
    return sandbox.login_node(options=["StrictModes no", f"AuthorizedKeysFile {key.with_name('authorized')}"])


def assert_refused_once(node: LoginNode) -> None:
    # The client is gone before the server has written everything down.
    eventually(lambda: "[preauth]" in node.log.read_text() and node.failures() > 0, node.log.read_text)
    assert (node.failures(), node.logins()) == (1, 0)


def known_by_another_key(node: LoginNode, directory: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "other")], check=True)
    kind, key = (directory / "other.pub").read_text().split()[:2]
    path = directory / "changed"
    path.write_text(f"[127.0.0.1]:{node.port} {kind} {key}\n")
    return path


class TestWaitingAtTheFarEnd:
    """A look at files that waits there for news has a channel of its own, or does not wait."""

    NEWS = FilePosition("run/step/log/stdout.0", 0)

    def new(self, cluster: SlurmCluster, seconds: float) -> Mapping[str, bytes]:
        return cluster.read_new([self.NEWS], max_bytes=100, wait_seconds=seconds)

    def test_no_other_request_waits_for_it(self, sandbox: Sandbox, control_dir: str) -> None:
        with (
            sandbox.login_node() as node,
            opened(connection_of(node.env(), control_dir=control_dir)) as transport,
            ThreadPoolExecutor(5) as threads,
        ):
            cluster = SlurmCluster(transport, remote_base="~/waiting")
            file = sandbox.home / "waiting" / "runs" / self.NEWS.name
            assert cluster.transport.command(("mkdir", "-p", f"waiting/runs/{Path(self.NEWS.name).parent}")).text == ""
            # Its channel is opened beside the first look, which does not wait.
            eventually(lambda: transport.run_aside(":"))
            waiting = threads.submit(self.new, cluster, 600.0)
            sleeping = "exec pgrep -u \"$(id -un)\" -f '/proc/[u]ptime'"
            eventually(lambda: transport.run(sleeping).text)
            for _ in range(3):
                assert {each.text for each in threads.map(transport.run, ["sleep 0.1; echo on"] * 4)} == {"on\n"}
            assert not waiting.done()
            transport.put(b"new", str(file))
            assert waiting.result(60.0) == {self.NEWS.name: b"new"}
            assert node.logins() == 1

    def test_with_one_session_nothing_waits(self, sandbox: Sandbox, control_dir: str) -> None:
        with (
            sandbox.login_node(options=["MaxSessions 1"]) as node,
            opened(connection_of(node.env(), control_dir=control_dir)) as transport,
        ):
            cluster = SlurmCluster(transport, remote_base="~/not-waiting")
            for _ in range(20):
                assert self.new(cluster, 600.0) == {}
                assert transport.run("echo on").text == "on\n"
                time.sleep(0.05)
            assert transport.run_aside(":") is None
            assert node.logins() == 1
            assert node.failures() == 0
