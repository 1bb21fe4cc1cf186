"""Hooks around a payload: the same in a batch script and on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.batch_script import end_of, in_slurm, prepared
from tests.support.waiting import eventually

import dagster_slurm.job
import dagster_slurm.launchers
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.launchers import Hook, LaunchPlan, launch_script, script_here
from dagster_slurm.launchers.hooks import TAKEN
from dagster_slurm.process_identity import ProcessIdentity

PHASES = ("begin", "enter", "end", "leave")


class Job:
    """A payload with hooks, in one of the two ways; what they trace is in a file of its own."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.kind = kind
        self.directory = directory
        self.trace = directory / "trace"
        self.root = directory

    def start(self, payload: str, *hooks: Hook) -> subprocess.Popen[str]:
        if self.kind == "job":
            script, self.root = prepared(self.directory, payload, *hooks)
            argv = ["bash", str(script)]
        else:
            (self.directory / "env.sh").touch()
            (self.directory / "work").mkdir()
            argv = ["bash", "-c", script_here(LaunchPlan((), ("bash", "-c", payload), hooks), str(self.directory))]
        return subprocess.Popen(
            argv,
            env=in_slurm(TRACE=str(self.trace)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, payload: str, *hooks: Hook) -> int:
        return self.ended(self.start(payload, *hooks))

    def ended(self, process: subprocess.Popen[str]) -> int:
        _, self.stderr = process.communicate(timeout=60)
        if self.kind == "job":
            self.stderr = (self.root / "log/stderr.0").read_text()
            assert end_of(self.root).exit_code == process.returncode, "what the end line says is what Slurm sees"
        return process.returncode

    def traced(self) -> str:
        return " ".join(self.trace.read_text().split("\n")).strip() if self.trace.exists() else ""


@pytest.fixture(params=["job", "here"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    return Job(tmp_path, request.param)


def tracing(name: str, **bodies: str) -> Hook:
    """A hook that writes down which of its functions are called; `bodies` has what they do besides."""
    lines = [f'{name}_{each}() {{ echo {name}.{each} >>"$TRACE"; {bodies.get(each, ":")}; }}' for each in PHASES]
    return Hook(name, "\n".join(lines))


def test_they_begin_in_order_and_end_in_reverse(job: Job) -> None:
    assert job.run('echo payload >>"$TRACE"', tracing("a"), tracing("b")) == 0
    assert job.traced() == "a.begin b.begin a.enter b.enter payload b.end a.end b.leave a.leave"
    assert job.stderr == ""


def test_a_hook_with_one_function(job: Job) -> None:
    assert job.run("true", Hook("one", 'one_end() { echo ended >>"$TRACE"; }')) == 0
    assert job.traced() == "ended"


@pytest.mark.parametrize(("payload", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_they_end_however_the_payload_does(job: Job, payload: str, code: int) -> None:
    assert job.run(payload, tracing("a")) == code
    assert job.traced().endswith("a.end a.leave")


@pytest.mark.parametrize(("status", "code"), [("return 1", 74), ("false", 74), ("return 3", 3), ("nosuchcommand", 127)])
@pytest.mark.parametrize("phase", ["begin", "enter"])
def test_where_one_fails_before_the_payload_it_is_not_started(job: Job, phase: str, status: str, code: int) -> None:
    hooks = tracing("a"), tracing("b", **{phase: status}), tracing("c")
    assert job.run('echo payload >>"$TRACE"', *hooks) == code
    ended = "b.end a.end b.leave a.leave" if phase == "begin" else "c.end b.end a.end c.leave b.leave a.leave"
    entered = "" if phase == "begin" else "c.begin a.enter b.enter "
    assert job.traced() == f"a.begin b.begin {entered}{ended}"
    assert f"dagster-slurm: b_{phase} has failed with status" in job.stderr


@pytest.mark.parametrize(("payload", "code"), [("true", 74), ("exit 3", 3)])
@pytest.mark.parametrize("phase", ["end", "leave"])
def test_where_one_fails_after_the_payload_the_others_go_on(job: Job, phase: str, payload: str, code: int) -> None:
    assert job.run(payload, tracing("a"), tracing("b", **{phase: "return 5"})) == code
    assert job.traced().endswith("b.end a.end b.leave a.leave")
    assert f"dagster-slurm: b_{phase} has failed with status 5" in job.stderr


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("status", [0, 5])
def test_one_that_exits_is_no_success_and_the_others_go_on(job: Job, phase: str, status: int) -> None:
    code = job.run('echo payload >>"$TRACE"', tracing("a"), tracing("b", **{phase: f"exit {status}"}))
    assert code == (status if status and phase in ("begin", "enter") else 74 if phase != "leave" or status else 0)
    assert job.traced().endswith("b.end a.end b.leave a.leave")
    assert ("payload" in job.traced()) is (phase in ("end", "leave"))


def test_an_exit_in_the_setup_is_no_success(job: Job) -> None:
    (job.directory / "profile").write_text("exit 0\n")
    plan = LaunchPlan((f". {job.directory}/profile",), ("true",))
    (job.directory / "env.sh").touch()
    done = subprocess.run(["bash", "-c", script_here(plan, str(job.directory))], capture_output=True, check=False)
    assert done.returncode == 74
    assert b"the payload was not started" in done.stderr


def test_what_begin_exports_and_where_enter_goes_the_payload_has(job: Job) -> None:
    shell = """
        here_begin() { export ADDRESS=tcp://n1:7; }
        here_enter() { mkdir in && cd in; }
    """
    hook = Hook("here", "\n".join(line.strip() for line in shell.splitlines()))
    assert job.run('echo "$ADDRESS ${PWD##*/}" >"$TRACE"', hook) == 0
    assert job.traced() == "tcp://n1:7 in"


def test_values_arrive_as_they_are(job: Job) -> None:
    hostile = ["it's $(x)", "a\nb", "", "*"]
    hook = Hook(
        "v", 'v_begin() { printf "%s|" "$v_one" "${v_all[@]}" >"$TRACE"; }', {"one": hostile[0], "all": hostile}
    )
    assert job.run("true", hook) == 0
    assert job.trace.read_text() == "".join(f"{value}|" for value in [hostile[0], *hostile])


HELPER = """
helper_begin() {
    { trap 'echo stopped >>"$TRACE"; exit' TERM; echo up >>"$TRACE"; while :; do sleep 0.05; done; } &
    helper_pid=$!
    echo "$helper_pid" >"$place/helper"
    until [ -s "$TRACE" ]; do sleep 0.02; done
}
helper_end() {
    kill -TERM "$helper_pid"
    wait "$helper_pid"
}
"""
# Something that the payload leaves behind, which writes until it is ended.
WRITES = '(trap "" TERM; while :; do date +%s.%N >last; sleep 0.02; done) & '


def test_a_helper_lives_as_long_as_the_payload_and_what_is_left_is_final(job: Job) -> None:
    leave = Hook("keep", 'keep_leave() { cp "$place/work/last" "$place/kept"; }')
    assert job.run(f"{WRITES} sleep 0.3", Hook("helper", HELPER), leave) == 0
    assert job.traced() == "up stopped"
    time.sleep(0.2)
    assert (job.root / "kept").read_text() == (job.root / "work/last").read_text()
    assert ProcessIdentity.of(int((job.root / "helper").read_text())) is None


WAITS = 'trap "echo told >>\\"$TRACE\\"; exit 9" TERM; touch up; while :; do sleep 0.05; done'


@pytest.mark.parametrize("reaches", [os.kill, os.killpg], ids=["its shell", "its group"])
def test_a_payload_that_is_told_to_end_has_its_helper_until_it_has(
    job: Job, reaches: Callable[[int, int], None]
) -> None:
    process = job.start(WAITS, Hook("helper", HELPER))
    eventually((job.root / "work/up").exists)
    reaches(process.pid, signal.SIGTERM)
    assert job.ended(process) == 9
    assert job.traced() == "up told stopped"


def test_told_to_end_before_there_is_a_payload(job: Job) -> None:
    slow = tracing("slow", begin="while :; do sleep 0.05; done")
    process = job.start('echo payload >>"$TRACE"', tracing("a"), slow, tracing("c"))
    eventually(lambda: "slow.begin" in job.traced())
    process.send_signal(signal.SIGTERM)
    assert job.ended(process) == 143
    assert job.traced() == "a.begin slow.begin slow.end a.end slow.leave a.leave"
    assert "SIGTERM came before the payload was started; it is not" in job.stderr


def test_a_warning_before_there_is_a_payload_is_named(tmp_path: Path) -> None:
    job = Job(tmp_path, "job")
    process = job.start("exit 4", tracing("slow", begin='until [ -e "$place/go" ]; do sleep 0.05; done'))
    eventually(lambda: "slow.begin" in job.traced())
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    (job.root / "go").touch()
    assert job.ended(process) == 4
    assert "SIGUSR1 came before the payload was started, and does not reach it" in job.stderr


def test_a_signal_that_hits_all_does_not_stop_what_is_copied(job: Job) -> None:
    leave = 'touch "$place/leaving"; sleep 0.5; echo left >>"$TRACE"'
    process = job.start("true", tracing("a", leave=leave))
    eventually((job.directory if job.kind == "here" else job.root).joinpath("leaving").exists)
    os.killpg(process.pid, signal.SIGTERM)
    assert job.ended(process) == 0
    assert job.traced().endswith("a.leave left")


@pytest.mark.parametrize("name", ["", "A", "a-b", "1a", "a b", "a;", "é", "a\n"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="not a name of a hook"):
        Hook(name, f"{name}_begin() {{ :; }}")
    with pytest.raises(InvalidRequestError, match="not a name of a hook"):
        Hook("a", "a_begin() { :; }", {name: "x"})


@pytest.mark.parametrize("shell", ["", "a_start() { :; }", "b_begin() { :; }", "# a_begin() {"])
def test_a_hook_that_does_nothing_is_refused(shell: str) -> None:
    with pytest.raises(InvalidRequestError, match="The hook 'a' does nothing"):
        Hook("a", shell)


def test_two_hooks_of_one_name_are_refused() -> None:
    plan = LaunchPlan((), ("true",), (tracing("a"), tracing("b"), tracing("a")))
    with pytest.raises(InvalidRequestError, match="Two hooks of the payload are called 'a'"):
        launch_script(plan)


def test_values_with_the_names_of_the_scripts_variables_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="would set 'run_directory'"):
        Hook("run", "run_begin() { :; }", {"directory": "x"})


def test_no_variable_of_the_scripts_is_forgotten() -> None:
    files = [Path(dagster_slurm.job.__file__).with_name(name) for name in ("batch.sh", "figures.sh", "samples.sh")]
    files += [Path(dagster_slurm.launchers.__file__).with_name(name) for name in ("payload.sh", "here.sh")]
    assigned = set()
    for file in files:
        for line in file.read_text().splitlines():
            words = line.split()
            assigned |= {word.partition("=")[0] for word in words if "=" in word and words[0] != "local"}
    with_underscore = {name for name in assigned if "_" in name and name.replace("_", "").isalpha() and name.islower()}
    assert with_underscore == TAKEN
