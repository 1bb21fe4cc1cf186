"""The way to the login node, as tables."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dagster_slurm.doctor.login import check_connection, judge_connection, judge_host_key, login_remedy, method
from dagster_slurm.doctor.way import Way, judge_banner, parse_ssh_config, read_banner
from dagster_slurm.errors import AuthenticationError, ConnectionFailedError
from dagster_slurm.transport import SSHConnection


class TestNetwork:
    @pytest.mark.parametrize(
        ("text", "way"),
        [
            ("host login\nhostname login.example\nport 2222\n", Way("login", "login.example", 2222)),
            ("hostname h\nport 22\nproxyjump gate\n", Way("login", "h", 22, "ProxyJump gate")),
            (
                "hostname h\nport 22\nproxycommand sshpass -p secret ssh -W %h:%p gate\nproxyjump none\n",
                Way("login", "h", 22, "ProxyCommand sshpass ..."),
            ),
            ("hostname h\nport 22\nproxycommand none\n", Way("login", "h", 22)),
            (
                "hostname h\nport 22\nhostkeyalias a\nuserknownhostsfile /x /y\n",
                Way("login", "h", 22, "", "a", ("/x", "/y")),
            ),
        ],
    )
    def test_where_ssh_would_connect_to(self, text: str, way: Way) -> None:
        assert parse_ssh_config("login", text) == way

    def test_names_of_host_keys(self) -> None:
        ways = [Way("a", "h", 22), Way("a", "h", 2222), Way("a", "h", 2222, key_alias="k")]
        assert [way.key_name for way in ways] == ["h", "[h]:2222", "k"]

    @pytest.mark.parametrize(
        ("banner", "status", "said"),
        [
            ("SSH-2.0-OpenSSH_9.2\r\n", "ok", "answers as SSH-2.0-OpenSSH_9.2"),
            ("Be careful\r\nSSH-2.0-x\r\n", "ok", "answers as SSH-2.0-x"),
            ("220 mail ESMTP\r\n", "wrong", "it says '220 mail ESMTP'"),
            ("HTTP/1.1 400 SSH-2.0\r\n", "wrong", "is no SSH server"),
            ("", "wrong", "says nothing within 10 s"),
        ],
    )
    def test_greetings(self, banner: str, status: str, said: str) -> None:
        finding = judge_banner(Way("h", "h", 22), banner)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"

    @pytest.mark.parametrize("greeting", [b"", b"hello\r\n", b"one\r\nSSH-2.0-x\r\nrest"])
    def test_reading_a_greeting_of_a_server_that_then_hangs(self, greeting: bytes) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            accepted: list[socket.socket] = []

            def greet() -> None:
                connection, _ = server.accept()
                accepted.append(connection)
                connection.sendall(greeting)

            threading.Thread(target=greet, daemon=True).start()
            read = read_banner("127.0.0.1", server.getsockname()[1], timeout_seconds=0.3)
        for each in accepted:
            each.close()
        assert read.encode() == greeting.removesuffix(b"rest")


class TestLogin:
    @pytest.mark.parametrize(
        ("fields", "how"),
        [
            ({"key_path": "/k"}, "with the key /k"),
            ({"password": "secret"}, "with the password"),
            ({"askpass_command": "code"}, "with the answers of the askpass_command"),
            ({}, "with what ~/.ssh/config and the agent offer"),
        ],
    )
    def test_methods(self, fields: dict[str, str], how: str) -> None:
        assert method(SSHConnection("h", **fields)) == how  # type: ignore[arg-type]

    def test_remedies(self) -> None:
        refused = AuthenticationError("The login was refused", hint="as ever")
        assert "authorized_keys" in login_remedy(SSHConnection("h", key_path="/k"), refused)
        assert "once only" in login_remedy(SSHConnection("h", password="secret"), refused)
        assert login_remedy(SSHConnection("h"), refused) == "as ever"
        assert "ssh -v" in login_remedy(SSHConnection("h"), ConnectionFailedError("gone"))

    def test_a_code_that_nobody_gives_is_not_the_password(self) -> None:
        asked = AuthenticationError(
            "The server asks for 'Code:', and nothing is configured", hint="Set askpass_command."
        )
        assert login_remedy(SSHConnection("h", password="secret"), asked) == "Set askpass_command."

    @pytest.mark.parametrize(
        ("fields", "offered", "said"),
        [
            ({"key_path": "/k"}, "publickey,password", "the public half of /k"),
            ({"key_path": "/k"}, "password", "takes no keys, only password: set PASSWORD"),
            ({"key_path": "/k", "password": "secret"}, "password", "Correct USER and PASSWORD"),
            ({"password": "secret"}, "publickey", "takes no passwords, only publickey: set KEY_PATH"),
            ({"password": "secret"}, "publickey,keyboard-interactive", "Correct USER and PASSWORD"),
        ],
    )
    def test_remedies_follow_what_the_server_takes(self, fields: dict[str, str], offered: str, said: str) -> None:
        refused = AuthenticationError(f"The login was refused: me@h: Permission denied ({offered}).", hint="as ever")
        assert said in login_remedy(SSHConnection("h", **fields), refused)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("checking", "was_known", "was_open", "status"),
        [
            ("strict", True, False, "ok"),
            ("strict", False, False, "ok"),
            ("accept-new", False, False, "ok"),
            ("off", True, False, "warning"),
            ("off", True, True, "ok"),
        ],
    )
    def test_host_keys(self, checking: str, was_known: bool, was_open: bool, status: str) -> None:
        connection = SSHConnection("h", host_key_checking=checking)  # type: ignore[arg-type]
        assert judge_host_key(connection, "h", was_known=was_known, was_open=was_open).status == status

    @pytest.mark.parametrize(
        ("fields", "is_shared", "status", "said"),
        [
            ({}, True, "ok", "shared by all processes, is open now and stays 10m after its last use; 1 login"),
            ({"password": "secret"}, False, "ok", "one of its own for each process"),
            ({}, False, "warning", "each process logs in for itself (1 login)"),
        ],
    )
    def test_connections(self, fields: dict[str, str], is_shared: bool, status: str, said: str) -> None:
        connection = SSHConnection("h", **fields)  # type: ignore[arg-type]
        finding = judge_connection(connection, is_shared=is_shared, was_open=False, logins=1)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"


def test_answers_that_are_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr("dagster_slurm.doctor.login.shared_directory", lambda: tmp_path)
    world: Any = SimpleNamespace(transport=None, connection=None)
    finding = check_connection(world)
    assert finding.status == "warning"
    assert f"Slurm's answers are not shared between processes: {tmp_path}" in finding.problem
