"""Tasks on nodes, as bash runs them: one node, without Slurm. Those of several are tested with Ray, on the sandbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from dagster_slurm.launchers import Hook, LaunchPlan, script_here
from dagster_slurm.transport.shell import shell_file

BEGIN = """
crew_begin() {
    nodes_begin crew yes || return
    nodes_have ready || return
    nodes_same_tmp=${SAME_TMP:-}
    nodes_make_token || return
    nodes_start || return
    nodes_await ready 10
    local status=$?
    if [ "$status" != 0 ]; then
        nodes_explain "$status" 'the crew does not come up'
        return 74
    fi
    export CREW="$nodes_text"
    nodes_log INFO 'crew "up" \\ here'
    nodes_guard
}
crew_enter() { nodes_enter; }
crew_end() { nodes_end; }
crew_leave() { nodes_leave; }
crew_keep() { cp "$nodes_tmp/log" "$1"; }
"""
SERVES = """
crew_node() {
    echo served >"$nodes_tmp/log"
    nodes_start_daemon bash -c 'trap "exit 3" TERM; (trap "" TERM; setsid sleep 300) & while :; do sleep 0.05; done'
    nodes_publish ready "$nodes_tmp $nodes_process $nodes_address"
}
"""
# A daemon that does not end by itself, and has written it down if it was asked to, before one that does.
WITH_CORE = """
nodes_core=captain nodes_grace=50
crew_captain='trap "echo left >>log; exit" TERM; : >up; while :; do sleep 0.05; done'
crew_node() {
    cd "$nodes_tmp" && cp "$(command -v bash)" captain || return
    export crew_captain
    nodes_start_daemon bash -c 'trap "echo told>>log" TERM; ./captain -c "$crew_captain" & while :; do sleep 0.05; done'
    until [ -e up ]; do sleep 0.05; done
    nodes_publish ready here
}
"""


class Crew:
    def __init__(self, directory: Path, tmp: Path) -> None:
        self.directory, self.tmp = directory, tmp
        (directory / "work").mkdir()
        (directory / "tmp").mkdir()
        (directory / "env.sh").touch()
        (directory / "log").mkdir()

    def start(self, payload: str, node: str = SERVES, setup: str = ":") -> subprocess.Popen[str]:
        library = "\n".join(shell_file("dagster_slurm.launchers", name) for name in ("usage.sh", "nodes.sh"))
        hook = Hook("crew", f"crew_setup() {{ {setup}; }}\n{library}{BEGIN}{node}")
        script = script_here(LaunchPlan((), ("bash", "-c", payload), (hook,)), str(self.directory))
        return subprocess.Popen(
            ["bash", "-c", script],
            env={**os.environ, "TMPDIR": str(self.tmp)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, payload: str, node: str = SERVES, setup: str = ":") -> int:
        process = self.start(payload, node, setup)
        self.stdout, self.stderr = process.communicate(timeout=60)
        return process.returncode

    @property
    def shared(self) -> Path:
        return self.directory / "crew.here"

    def left(self) -> list[str]:
        """Processes of its tasks."""
        told = f"DAGSTER_SLURM_NODE={self.shared} 0".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if told in environ.read_bytes().split(b"\0"):
                    found.append(environ.with_name("cmdline").read_bytes().decode())
            except OSError:
                continue
        return found


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    # Short: what lies in it has at most 39 bytes.
    with tempfile.TemporaryDirectory(prefix="n", dir="/tmp") as tmp:
        yield Crew(tmp_path, Path(tmp))


def test_it_is_up_before_the_payload_and_gone_after_it(crew: Crew) -> None:
    assert crew.run('echo "$CREW"; ls -A "${CREW%% *}"') == 0, crew.stderr
    words, log = crew.stdout.splitlines()
    tmp, _, address = words.split()
    assert (log, address, crew.stderr) == ("log", "127.0.0.1", "")
    assert len(tmp) <= 39
    assert not Path(tmp).exists()
    assert crew.left() == []
    assert not crew.shared.exists()
    (message,) = (crew.directory / "log/messages").read_text().splitlines()
    assert json.loads(message)["params"] == {"message": 'crew "up" \\ here', "level": "INFO"}


def test_a_payload_that_fails_keeps_logs_and_the_end_and_no_token(crew: Crew) -> None:
    assert crew.run("exit 7") == 7
    (kept,) = crew.shared.glob("logs/*/log")
    assert kept.read_text() == "served\n"
    assert f"crew: the logs of its nodes are in {crew.shared}/logs" in crew.stderr
    word, _, _, cause, *_ = (crew.shared / "end.0").read_text().split()
    assert (word, cause) == ("ended", "stopped")
    assert not (crew.shared / "token").exists()
    assert crew.left() == []


def test_the_token_is_this_users(crew: Crew) -> None:
    assert crew.run(f"stat -c %a {crew.shared} {crew.shared}/token; wc -c <{crew.shared}/token") == 0, crew.stderr
    assert crew.stdout.split() == ["700", "600", "64"]


@pytest.mark.parametrize("is_of", ["nobody", "this user", "this user, behind a link", "somebody else"])
def test_a_directory_for_all_nodes_is_taken_from_nobody(
    crew: Crew, is_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name can be read on the first node by who is faster on another one."""
    own, same = crew.tmp / "own", crew.tmp / "same"
    own.mkdir()
    if is_of == "this user, behind a link":
        same.symlink_to(own)
    elif is_of != "nobody":
        same.mkdir(mode=0o700)
    if is_of == "somebody else":
        os.chown(same, 12345, 12345)
    node = 'crew_node() { echo "$nodes_tmp" >"$nodes_tmp/here"; nodes_start_daemon sleep 300; nodes_publish ready up; }'
    monkeypatch.setenv("SAME_TMP", str(same))
    code = crew.run('echo "$CREW"', node)
    is_taken = is_of in ("nobody", "this user")
    assert (code, crew.stdout) == ((0, "up\n") if is_taken else (74, "")), crew.stderr
    assert is_taken or "is somebody else's" in crew.stderr
    assert list(own.iterdir()) == []


def test_only_the_core_of_the_work_is_waited_for(crew: Crew) -> None:
    assert crew.run("exit 7", WITH_CORE) == 7
    (kept,) = crew.shared.glob("logs/*/log")
    assert kept.read_text() == "left\n"
    assert crew.left() == []


def test_a_payload_whose_head_ends_is_ended(crew: Crew) -> None:
    began = time.monotonic()
    assert crew.run('set -- $CREW; kill -KILL "$2"; trap "" TERM; sleep 300 & wait; wait') == 74
    assert time.monotonic() - began < 30
    assert "it has ended with status 137 before the payload" in crew.stderr
    assert crew.left() == []


@pytest.mark.parametrize(
    ("node", "setup", "reason"),
    [
        ("crew_node() { echo said so; return 5; }", ":", "it has ended with status 5"),
        ("crew_node() { nodes_fail 'there is no boat'; }", ":", "there is no boat"),
        ("crew_node() { nodes_start_daemon bash -c 'exit 9'; }", ":", "it has ended with status 9"),
        (SERVES, "exit 0", "it has ended with status 0"),
        ("crew_node() { nosuchcommand; }", ":", "it has ended with status 127"),
    ],
)
def test_one_that_does_not_come_up_is_named_and_there_is_no_payload(
    crew: Crew, node: str, setup: str, reason: str
) -> None:
    assert crew.run("echo begun", node, setup) == 74
    assert crew.stdout == ""
    assert f"the crew does not come up: node {os.uname().nodename}: {reason}\n" in crew.stderr
    assert crew.left() == []


def test_work_that_hangs_is_ended_with_all_else(crew: Crew) -> None:
    process = crew.start("true", 'crew_node() { touch "$place/hangs"; sleep 300; }')
    eventually((crew.directory / "hangs").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert crew.left() == []
    assert list(crew.tmp.iterdir()) == []


def test_where_the_shell_is_killed_the_tasks_end(crew: Crew) -> None:
    process = crew.start("touch up; sleep 300")
    eventually((crew.directory / "work/up").exists)
    process.kill()
    end = eventually((crew.shared / "end.0").read_text, crew.left, seconds=20)
    assert end.split()[3] == "stopped"
    assert crew.left() == []
    os.killpg(int((crew.shared / "payload").read_text()), signal.SIGKILL)
