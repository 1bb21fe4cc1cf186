"""The OpenSSH transport against a real sshd: logins, the shared connection, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dagster_slurm.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    HostKeyError,
    HostNotFoundError,
    SSHConfigurationError,
    TransportError,
    TransportTimeoutError,
)
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport import OpenSSHTransport, SSHConnection, openssh
from tests import ssh
from tests.ssh import connection_of, control_directory
from tests.support import forked
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

Opened = Callable[..., OpenSSHTransport]

CLIENT = """
import sys
from dagster_slurm.transport import OpenSSHTransport, SSHConnection
host, port, user, key_path, known_hosts_file, control_dir = sys.argv[1:7]
connection = SSHConnection(host, int(port), user, key_path, "strict", known_hosts_file, control_dir=control_dir)
print("ready", flush=True)
sys.stdin.readline()
transport = OpenSSHTransport(connection)
for number in range(3):
    print(transport.run('printf %s "$1"', [sys.argv[7]]).text, flush=True)
transport.close()
"""


@pytest.fixture
def connection(sandbox: Sandbox) -> Iterator[SSHConnection]:
    """The way to the sandbox, with a directory of its own for the shared connection."""
    with control_directory() as control_dir:
        yield connection_of(sandbox.env(), control_dir=control_dir)


@pytest.fixture
def opened(connection: SSHConnection) -> Iterator[Opened]:
    """Opens transports whose shared connections end with the test."""
    transports: list[OpenSSHTransport] = []

    def open_one(**changes: object) -> OpenSSHTransport:
        transports.append(OpenSSHTransport(replace(connection, **changes)))  # type: ignore[arg-type]
        return transports[-1]

    yield open_one
    for transport in transports:
        transport.disconnect()


def master_pid(transport: OpenSSHTransport) -> int:
    argv = ["ssh", "-S", str(transport.connection.control_path()), "-O", "check", transport.connection.host]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    found = re.search(r"pid=(\d+)", said)
    assert found, said
    return int(found.group(1))


def client_port(transport: OpenSSHTransport) -> str:
    """The client's port of the TCP connection that carries the transport: another one after each login."""
    return transport.run("echo ${SSH_CONNECTION#* }").text.split(" ")[0]


class TestLogins:
    """One login for everything that shares a connection."""

    def test_many_commands_and_transports_share_one_login(self, opened: Opened) -> None:
        transports = [opened() for _ in range(3)]
        ports = {client_port(transport) for transport in transports for _ in range(5)}
        assert len(ports) == 1

    def test_ten_processes_at_the_same_moment_log_in_once(
        self, sandbox: Sandbox, connection: SSHConnection, opened: Opened
    ) -> None:
        fields = (connection.host, connection.port, connection.user, connection.key_path)
        argv = [sys.executable, "-c", CLIENT, *map(str, fields), connection.known_hosts_file, connection.control_dir]
        clients = [
            forked.start([*argv, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # type: ignore[list-item]
            for number in range(10)
        ]
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        before = sandbox.logins()
        outputs = [client.communicate(timeout=60)[0] for client in start_all(clients)]
        assert outputs == [f"{number}\n" * 3 for number in range(10)]
        assert sandbox.logins() - before == 1
        assert opened().run("echo found").text == "found\n"
        assert sandbox.logins() - before == 1

    def test_the_connection_outlives_the_process_and_is_found_by_the_next(
        self, sandbox: Sandbox, opened: Opened
    ) -> None:
        first = opened()
        port, pid = client_port(first), master_pid(first)
        first.close()
        second = opened()
        assert (client_port(second), master_pid(second)) == (port, pid)

    def test_disconnect_ends_the_connection_for_everybody(self, opened: Opened) -> None:
        first, second = opened(), opened()
        ports = [client_port(first), client_port(second)]
        pid = master_pid(first)
        first.disconnect()
        eventually(lambda: not Path(f"/proc/{pid}").exists())
        assert ports[0] == ports[1] != client_port(second)

    def test_another_way_to_log_in_is_another_connection(self, connection: SSHConnection) -> None:
        ways = [connection, replace(connection, user="x"), replace(connection, port=1), replace(connection, host="h")]
        assert len({way.control_path() for way in ways}) == len(ways)
        assert connection.control_path() == replace(connection).control_path()


def start_all(clients: list[forked.Process]) -> list[forked.Process]:
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
    return clients


class TestHealing:
    """A connection that went is made again; what was on it is told as a broken connection."""

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
    def test_a_killed_master_is_replaced(self, opened: Opened, how: signal.Signals) -> None:
        transport = opened()
        port, pid = client_port(transport), master_pid(transport)
        os.kill(pid, how)
        eventually(lambda: not Path(f"/proc/{pid}").exists())
        # The channel that is open may break once; never twice.
        try:
            new_port = client_port(transport)
        except ConnectionFailedError as error:
            assert error.transient
            new_port = client_port(transport)
        assert new_port != port
        assert master_pid(transport) != pid

    def test_a_process_that_comes_later_replaces_a_killed_master(self, opened: Opened) -> None:
        first = opened()
        first.run(":")
        os.kill(master_pid(first), signal.SIGKILL)
        assert opened().run("echo on").text == "on\n"

    def test_a_master_that_hangs_is_replaced(self, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openssh, "_CONTROL_TIMEOUT_SECONDS", 1.0)
        first = opened()
        first.run(":")
        pid = master_pid(first)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert opened().run("echo on").text == "on\n"
        finally:
            os.kill(pid, signal.SIGKILL)

    def test_a_command_that_runs_when_the_connection_breaks(self, opened: Opened) -> None:
        transport = opened()
        transport.run(":")
        pid = master_pid(transport)
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -KILL {pid}"])
        with pytest.raises(ConnectionFailedError) as caught:
            transport.run("sleep 60")
        killer.wait()
        assert caught.value.transient
        assert caught.value.host == transport.host
        assert transport.run("echo on").text == "on\n"


class TestRefusals:
    """What OpenSSH or the server refuses is told by its own error, once."""

    def test_unknown_host_key(self, opened: Opened, tmp_path: Path) -> None:
        known = tmp_path / "known hosts"
        known.touch()
        with pytest.raises(HostKeyError, match="not known") as caught:
            opened(known_hosts_file=str(known)).run("true")
        assert_explained(caught.value)
        assert known.read_text() == ""

    def test_changed_host_key(self, connection: SSHConnection, opened: Opened, tmp_path: Path) -> None:
        known = tmp_path / "known hosts"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
        key = (tmp_path / "key.pub").read_text().split()[:2]
        known.write_text(f"[{connection.host}]:{connection.port} {' '.join(key)}\n")
        for checking in ("strict", "accept-new"):
            with pytest.raises(HostKeyError, match="not the one on record") as caught:
                opened(known_hosts_file=str(known), host_key_checking=checking).run("true")
            assert_explained(caught.value)

    def test_accept_new_records_an_unknown_key(self, opened: Opened, tmp_path: Path) -> None:
        known = tmp_path / "known hosts"
        changes = {"known_hosts_file": str(known), "host_key_checking": "accept-new"}
        assert opened(**changes).run("echo in").text == "in\n"
        assert "ssh-ed25519" in known.read_text()
        assert opened(known_hosts_file=str(known)).run("echo in").text == "in\n"

    def test_checking_switched_off_takes_any_key_and_records_none(self, opened: Opened, tmp_path: Path) -> None:
        known = tmp_path / "known hosts"
        assert opened(known_hosts_file=str(known), host_key_checking="off").run("echo in").text == "in\n"
        assert not known.exists()

    def test_wrong_key_is_one_attempt(self, sandbox: Sandbox, opened: Opened, tmp_path: Path) -> None:
        key = tmp_path / "a key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        print_of = subprocess.run(["ssh-keygen", "-l", "-f", str(key)], capture_output=True, text=True, check=True)
        fingerprint = print_of.stdout.split()[1]
        with pytest.raises(AuthenticationError, match="refused") as caught:
            opened(key_path=str(key)).run("true")
        assert_explained(caught.value)
        log = sandbox.paths.log("sshd").read_text()
        assert log.count(f"Failed publickey for {sandbox.user}") >= 1
        assert len(re.findall(rf"Failed publickey .*{re.escape(fingerprint)}", log)) == 1

    def test_a_key_that_is_not_there_is_told_before_anything_else(self, opened: Opened, tmp_path: Path) -> None:
        """ssh passes over it, and with a connection that is open nobody would know."""
        opened().run("true")
        with pytest.raises(
            SSHConfigurationError, match=f"There is no key file {tmp_path}/none on this machine"
        ) as caught:
            opened(key_path=f"{tmp_path}/none").run("true")
        assert_explained(caught.value)

    def test_a_key_that_others_may_read_is_named(
        self, opened: Opened, connection: SSHConnection, tmp_path: Path
    ) -> None:
        key = tmp_path / "key"
        shutil.copy(str(connection.key_path), key)
        key.chmod(0o644)
        with pytest.raises(AuthenticationError, match="refused") as caught:
            opened(key_path=str(key)).run("true")
        assert caught.value.hint == (
            f"ssh has not used the key: Permissions 0644 for '{key}' are too open. `chmod 600` mends that."
        )

    def test_what_is_no_key_is_named(self, opened: Opened, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_text("no key\n")
        key.chmod(0o600)
        with pytest.raises(AuthenticationError, match="refused") as caught:
            opened(key_path=str(key)).run("true")
        assert str(caught.value.hint).startswith(f'ssh has not used the key: Load key "{key}": ')

    def test_a_key_or_password_that_an_open_connection_hides_is_told(self, opened: Opened, tmp_path: Path) -> None:
        first = opened()
        first.run("true")
        again, other, typed = opened(), opened(key_path=str(tmp_path / "other")), opened(password="wrong")
        (tmp_path / "other").touch()
        for transport in (again, other, typed):
            assert transport.run("echo in").text == "in\n"
        assert (first.remark, again.remark) == ("", "")
        open_already = f"A connection to {first.host} is open already: "
        ends = "`dagster-slurm login --end` ends that connection"
        assert other.remark == f"{open_already}the key {tmp_path}/other was not used, and may be wrong. {ends}"
        assert typed.remark == f"{open_already}the password was not used, and may be wrong. {ends}"

    @pytest.mark.parametrize("quiet", [("-o", "LogLevel=QUIET"), ("-F", "config")], ids=["option", "configuration"])
    def test_a_quiet_ssh_is_no_outage(self, opened: Opened, tmp_path: Path, quiet: tuple[str, str]) -> None:
        """A refused login was told as an outage, and tried again and again."""
        (tmp_path / "config").write_text("LogLevel QUIET\n")
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        extra_opts = (quiet[0], quiet[1].replace("config", str(tmp_path / "config")))
        with pytest.raises(AuthenticationError, match="refused"):
            opened(key_path=str(key), extra_opts=extra_opts).run("true")
        with pytest.raises(HostKeyError):
            opened(known_hosts_file=str(tmp_path / "none"), extra_opts=extra_opts).run("true")

    def test_a_shell_that_ends_by_itself_is_no_outage(self, opened: Opened) -> None:
        """As that of an account that may not log in (nologin(8)): it was waited for without end."""
        command = "echo This account is currently not available. && exit 1; {cmd}"
        with pytest.raises(AuthenticationError, match=r"status 1 .*currently not available"):
            opened(post_login_command=command).run("true")

    def test_wrong_port(self, opened: Opened) -> None:
        with pytest.raises(ConnectionFailedError, match="Connection refused") as caught:
            opened(port=1).run("true")
        assert caught.value.transient
        assert caught.value.host == opened(port=1).host

    def test_unresolvable_host(self, opened: Opened) -> None:
        with pytest.raises(HostNotFoundError) as caught:
            opened(host="no-such-host.invalid").run("true")
        assert "no-such-host.invalid" in str(caught.value)

    def test_bad_option(self, opened: Opened) -> None:
        with pytest.raises(SSHConfigurationError, match=r"(?i)Bad configuration option: NoSuchOption"):
            opened(extra_opts=("-o", "NoSuchOption=1")).run("true")

    def test_missing_program(self, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
        transport = opened()
        with monkeypatch.context() as without:
            without.setenv("PATH", "/nonexistent")
            with pytest.raises(ConfigurationError, match="not installed") as caught:
                transport.run("true")
        assert caught.value.hint

    @pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "", " ", "a b", "a\nb", "-h"])
    def test_host_names_that_are_options(self, host: str) -> None:
        with pytest.raises(ConfigurationError, match="not a name"):
            SSHConnection(host)
        with pytest.raises(ConfigurationError, match="not a name"):
            SSHConnection("host", user=host)


@contextmanager
def slow_shell(sandbox: Sandbox, seconds: float, **changes: str) -> Iterator[OpenSSHTransport]:
    """The way to a login node whose shell does something else first."""
    home_files = {".bashrc": f"sleep {seconds}\n"}
    with (
        sandbox.login_node(shell="/bin/bash", home_files=home_files) as node,
        control_directory() as control_dir,
        ssh.opened(connection_of(node.env(), **{"control_dir": control_dir, **changes})) as transport,
    ):
        yield transport


class TestAsTheUserHasIt:
    """What stands in ~/.ssh/config and ~/.bashrc for working by hand."""

    @pytest.mark.parametrize("line", ["StdinNull yes", "ForkAfterAuthentication yes", "SessionType none"])
    @pytest.mark.parametrize("way", ["shared", "of its own", "through a jump host"])
    def test_a_session_that_is_not_ours(self, opened: Opened, tmp_path: Path, line: str, way: str) -> None:
        """The shell ended as it began, or there was none."""
        config = tmp_path / "config"
        config.write_text(f"Host *\n    {line}\n")
        options = ("-F", str(config))
        jump = opened().connection if way == "through a jump host" else None
        changes = {
            "shared": {},
            "of its own": {"control_dir": "/proc/nowhere"},
            "through a jump host": {"jump": jump and replace(jump, extra_opts=options)},
        }
        assert opened(extra_opts=options, **changes[way]).run("cat", stdin=b"ours").stdout == b"ours"

    def test_a_shell_that_takes_longer_than_a_login(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        with slow_shell(sandbox, 1.5) as transport:
            assert transport.run("echo in").text == "in\n"
            transport.close()
            # The login is made.
            monkeypatch.setattr(openssh, "CONNECT_TIMEOUT_SECONDS", 0.5)
            assert transport.run("echo again").text == "again\n"

    @pytest.mark.all_faults
    @pytest.mark.parametrize("changes", [{}, {"control_dir": "/proc/nowhere"}])
    def test_a_shell_that_takes_25_seconds(self, sandbox: Sandbox, changes: dict[str, str]) -> None:
        with slow_shell(sandbox, 25, **changes) as transport:
            assert transport.run("echo in").text == "in\n"

    def test_a_shell_that_does_not_begin(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openssh, "_SHELL_TIMEOUT_SECONDS", 1.0)
        late = pytest.raises(TransportTimeoutError, match="has taken no command within 1 s")
        with slow_shell(sandbox, 600) as transport, late as caught:
            transport.run("echo in")
        assert "bashrc" in str(caught.value.hint)


class TestControlPath:
    """Where the socket of the shared connection lies."""

    def test_a_long_directory_falls_back_to_a_short_path(
        self, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = str(tmp_path / ("d" * 100))
        monkeypatch.setenv("TMPDIR", long)
        transport = opened(control_dir=long)
        path = transport.connection.control_path()
        assert transport.run("echo in").text == "in\n"
        assert path.is_socket()
        assert len(os.fsencode(path)) < 90
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert not Path(long).exists()

    def test_the_directory_is_private(self, connection: SSHConnection, opened: Opened) -> None:
        directory = f"{connection.control_dir}/made"
        opened(control_dir=directory).run(":")
        assert Path(directory).stat().st_mode & 0o777 == 0o700

    def test_a_directory_of_somebody_else_is_refused(
        self, sandbox: Sandbox, connection: SSHConnection, opened: Opened
    ) -> None:
        directory = Path(connection.control_dir) / "theirs"
        directory.mkdir()
        shutil.chown(directory, sandbox.user)
        with pytest.raises(ConfigurationError, match="belongs to somebody else") as caught:
            opened(control_dir=str(directory)).run("true")
        assert "DAGSTER_SLURM_SSH_CONTROL_DIR" in str(caught.value)


def assert_explained(error: TransportError) -> None:
    assert error.hint
    assert error.host
    assert not error.transient
