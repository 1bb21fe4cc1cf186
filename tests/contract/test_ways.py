"""The contract over every way in which sites let people in, each against an sshd that is set up so."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm.sandbox import LoginNode, Sandbox
from dagster_slurm.transport import OpenSSHTransport, SSHConnection
from tests.contract.test_transports import (
    Far,
    TestPutEverywhere,
    TestPutInARealFileSystem,
    TestPutTreeEverywhere,
    TestPutTreeInARealFileSystem,
    TestReadFrom,
    TestRunEverywhere,
    TestRunInARealShell,
)
from tests.ssh import connection_of, control_directory, opened

# They are run by pytest, with the fixtures of this module.
__all__ = [
    "TestPutEverywhere",
    "TestPutInARealFileSystem",
    "TestPutTreeEverywhere",
    "TestPutTreeInARealFileSystem",
    "TestReadFrom",
    "TestRunEverywhere",
    "TestRunInARealShell",
]
BANNER = "/etc/os-release"
pytestmark = [pytest.mark.cluster, pytest.mark.sampled("way", share=6)]

NOISE = "echo noise; printf 'more of it, no newline' >&2; printf '\\n0 0\\n%s' 'half a line'\n"
SH_NOISE = {".bashrc": NOISE, ".profile": NOISE, ".bash_logout": NOISE}
CSH_NOISE = {".tcshrc": "echo noise\nset prompt = '> '\necho -n 'half a line'\n", ".login": "echo in\n"}
FISH_NOISE = {".config/fish/config.fish": "echo noise; printf 'half a line'; echo err >&2\n"}


@dataclass
class Site:
    """Where a way in is set up: starts login nodes, and knows how to connect to them."""

    sandbox: Sandbox
    directory: Path
    cleanup: ExitStack

    def node(self, *options: str, **settings: Any) -> LoginNode:
        return self.cleanup.enter_context(self.sandbox.login_node(options=options, **settings))

    def key(self, node: LoginNode, **changes: Any) -> SSHConnection:
        return connection_of(node.env(), **{"control_dir": str(self.directory), **changes})

    def password(self, node: LoginNode, **changes: Any) -> SSHConnection:
        return connection_of(node.env(password=True), **{"control_dir": str(self.directory), **changes})


def through_two_hosts(site: Site) -> SSHConnection:
    """A password and a known key at the first, password and code and a key never seen at the second, a key at last."""
    outer = site.password(site.node("PubkeyAuthentication no", f"Banner {BANNER}"))
    known = str(site.directory / "known hosts")
    inner = site.password(site.node(otp=True), jump=outer, host_key_checking="accept-new", known_hosts_file=known)
    return site.key(site.node(), jump=inner)


def bare(site: Site) -> SSHConnection:
    """No sftp, no interpreters on the PATH, a home that cannot be written."""
    programs = Path(site.cleanup.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
    programs.chmod(0o755)
    for program in Path("/usr/bin").iterdir():
        if not program.name.startswith(("python", "perl")):
            (programs / program.name).symlink_to(program)
    node = site.node("Subsystem sftp /bin/false", f"SetEnv PATH={programs}", home_files={})
    os.chown(pwd.getpwnam(node.user).pw_dir, 0, 0)
    return site.key(node)


WAYS: dict[str, Callable[[Site], SSHConnection]] = {
    "password": lambda site: site.password(site.node("PubkeyAuthentication no", "MaxSessions 1")),
    "one-time code": lambda site: site.password(site.node(otp=True)),
    "two jump hosts": through_two_hosts,
    "tty": lambda site: site.key(site.node(), force_tty=True),
    "post-login command": lambda site: site.key(
        site.node(), post_login_command="echo noise; env X='1 2' bash -lc {cmd}"
    ),
    "one session": lambda site: site.key(site.node("MaxSessions 1")),
    "noise": lambda site: site.key(site.node(f"Banner {BANNER}", home_files=SH_NOISE)),
    "noise on a tty": lambda site: site.password(site.node(f"Banner {BANNER}", home_files=SH_NOISE)),
    "tcsh": lambda site: site.key(site.node(shell="/usr/bin/tcsh", home_files=CSH_NOISE)),
    "tcsh on a tty": lambda site: site.password(site.node(shell="/usr/bin/tcsh", home_files=CSH_NOISE)),
    "fish": lambda site: site.key(site.node(shell="/usr/bin/fish", home_files=FISH_NOISE)),
    "fish on a tty": lambda site: site.password(site.node(shell="/usr/bin/fish", home_files=FISH_NOISE)),
    "bare": bare,
    "no control directory": lambda site: site.key(site.node(), control_dir="/proc/nowhere"),
}
DIRECT = {"password", "one-time code", "noise on a tty", "tcsh on a tty", "fish on a tty", "no control directory"}


# Where the whole contract is run; on the other ways, what the way can matter for.
WHOLE = {"password", "bare"} | ({"one session", "noise", "tcsh"} if os.environ.get("FAULTS") == "all" else set())
ESSENTIAL = {
    "test_a_background_process_does_not_block",
    "test_a_shell_that_dies_is_a_broken_connection_and_replaced",
    "test_a_timeout_is_typed_and_the_next_request_works",
    "test_a_timeout_while_sending",
    "test_an_argument_arrives_unchanged",
    "test_an_existing_destination_is_left_as_it_is",
    "test_bytes_in_and_out",
    "test_bytes_on_both_outputs_at_once",
    "test_content_from_bytes_and_from_a_file",
    "test_eight_threads_get_their_own_answers",
    "test_hostile_names",
    "test_it_can_be_used_after_close",
    "test_many_arguments_arrive_in_order",
    "test_nested_files_with_their_content_and_modes",
    "test_nothing_is_left_beside_a_file",
    "test_offsets",
    "test_pieces_of_a_large_file_make_the_whole",
    "test_size_that_changes_while_it_is_sent_disturbs_nothing",
    "test_stdin_left_unread_does_not_reach_the_next_request",
    "test_streams_and_status_are_separate",
}


def left_out(test: str, way: str) -> bool:
    """Whether a test of the contract is not run on a way."""
    if way == "bare" and test == "test_a_relative_destination_with_a_leading_dash":
        # It is relative to the home, which cannot be written.
        return True
    return way not in WHOLE and test not in ESSENTIAL


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def far(way: str, sandbox: Sandbox) -> Iterator[Far]:
    with ExitStack() as cleanup:
        site = Site(sandbox, Path(cleanup.enter_context(control_directory())), cleanup)
        transport = cleanup.enter_context(opened(WAYS[way](site)))
        root = transport.run('mktemp -d "/tmp/contract it\'s XXXXXX"').text.strip()
        cleanup.callback(transport.command, ["rm", "-rf", "--", root])
        yield Far(transport, root)


@pytest.fixture(scope="module")
def shell(far: Far) -> Far:
    return far


class TestTheWayItself:
    """That the way is the one that is meant."""

    def test_it_is_shared_or_direct_as_it_should_be(self, way: str, far: Far) -> None:
        assert isinstance(far.transport, OpenSSHTransport)
        if way == "one session":
            pytest.skip("a script that was given up still holds the one session; test_logins shows that it is shared")
        transport = OpenSSHTransport(far.transport.connection)
        transport.run(":")
        assert transport.is_shared == (way not in DIRECT)
        transport.close()

    def test_what_a_bare_login_node_has_not(self, way: str, far: Far) -> None:
        found = far.transport.run("command -v python3 perl; touch ~/x 2>/dev/null && rm ~/x && echo home")
        assert (found.text == "") == (way == "bare")
