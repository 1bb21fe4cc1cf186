"""batch.sh without Slurm: where no control group names the job's processes, and bash has no clock of its own."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from tests.support.batch_script import JOB_ID, end_of, in_slurm, prepared, run_job
from tests.support.waiting import eventually

import dagster_slurm.job
from dagster_slurm.cluster.description import EndMark, NodeEnd, StartMark, parse_marks
from dagster_slurm.launchers import Hook
from dagster_slurm.process_identity import ProcessIdentity
from dagster_slurm.transport.shell import shell_file

BATCH_SH = Path(dagster_slurm.job.__file__).with_name("batch.sh")
BASH_4 = "unset EPOCHREALTIME\n"
BASH_HAS_SHORT_PIPES = (
    "yes"
    in subprocess.run(
        ["bash", "-c", "[ -p /dev/stdin ] <<<'' && echo yes"], capture_output=True, text=True, check=False
    ).stdout
)
BASH_PAUSES_ALONE = (
    subprocess.run(
        ["bash", "-c", f"{shell_file('dagster_slurm.launchers', 'pause.sh')}\npauses_alone"], check=False
    ).returncode
    == 0
)


@pytest.mark.parametrize("before", ["", BASH_4], ids=["bash 5", "bash 4"])
def test_marks_with_times_and_sizes(tmp_path: Path, before: str) -> None:
    began = time.time()
    done, root = run_job(tmp_path, "echo out; echo error >&2; exit 3", before=before)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    (start, end), _ = parse_marks((root / "log/status").read_text())
    assert isinstance(start, StartMark) and isinstance(end, EndMark)
    assert (start.node, end.job_id, end.exit_code) == ("n1", JOB_ID, 3)
    assert began <= start.at_epoch_seconds <= end.at_epoch_seconds <= time.time()
    assert end.bytes_of == {"stdout": 4, "stderr": 6, "messages": 0}


def test_all_nodes_are_in_the_marks_and_their_ends_where_a_hook_looks(tmp_path: Path) -> None:
    hook = Hook("crew", "crew_end() { node_ends+=(n1:stopped:4096:1500000:0 n2:lost:-:-:-); }")
    done, root = run_job(tmp_path, "exit 3", hook, SLURM_JOB_NODELIST="n[1-2]")
    (start, end), _ = parse_marks((root / "log/status").read_text())
    assert isinstance(start, StartMark) and isinstance(end, EndMark)
    assert (done.returncode, start.nodes, end.exit_code) == (3, "n[1-2]", 3)
    assert end.nodes == (NodeEnd("n1", "stopped", 4096, 1.5, 0), NodeEnd("n2", "lost"))


def test_what_was_written_to_a_removed_log_counts(tmp_path: Path) -> None:
    """It counted nothing, so that nobody missed it."""
    _, root = run_job(tmp_path, "echo out; echo {} >../log/messages.0; rm ../log/*.0; echo error >&2")
    assert end_of(root).bytes_of == {"stdout": 4, "stderr": 6, "messages": 3}


def test_what_a_payload_leaves_behind_is_ended(tmp_path: Path) -> None:
    _, root = run_job(tmp_path, "for _ in 1 2 3; do setsid sleep 300 & echo $! >>pids; done; sleep 0.3")
    pids = (root / "work/pids").read_text().split()
    assert len(pids) == 3
    assert not [pid for pid in pids if ProcessIdentity.of(int(pid))]


BY_NAME = """
echo out 1; echo error 1 >&2
echo error 2 >/dev/stderr; echo out 2 >/dev/stdout
echo error 3 | tee /dev/stderr >/dev/null
echo out 3; echo error 4 >&2
"""


def test_a_payload_that_opens_its_streams_anew_cuts_off_nothing(tmp_path: Path) -> None:
    """As `> /dev/stderr`, which empties a file (benchexec#535)."""
    _, root = run_job(tmp_path, BY_NAME)
    assert (root / "log/stdout.0").read_text() == "".join(f"out {n}\n" for n in range(1, 4))
    assert (root / "log/stderr.0").read_text() == "".join(f"error {n}\n" for n in range(1, 5))
    assert end_of(root).bytes_of == {"stdout": 18, "stderr": 32, "messages": 0}


@pytest.mark.parametrize("slowly", ["cat", 'while read -r line; do echo "$line"; done'], ids=["cat", "slow"])
def test_output_through_a_child_arrives_to_its_end(tmp_path: Path, slowly: str) -> None:
    """Of `exec > >(tee log)` the shell does not wait for what it has started."""
    _, root = run_job(tmp_path, f"exec > >({slowly}) 2>&1; seq 20000; echo the end >&2")
    assert (root / "log/stdout.0").read_text().splitlines() == [*map(str, range(1, 20001)), "the end"]
    assert end_of(root).bytes_of["stdout"] == (root / "log/stdout.0").stat().st_size


def test_what_merely_holds_the_streams_open_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    done, root = run_job(tmp_path, "echo out; sleep 300 & echo $! >pid")
    assert time.monotonic() - began < 15
    assert (done.returncode, (root / "log/stdout.0").read_text()) == (0, "out\n")
    assert not ProcessIdentity.of(int((root / "work/pid").read_text()))


WITHOUT_PERL = """
command() { [ "$2" != perl ] && builtin command "$@"; }
"""


@pytest.mark.parametrize("before", ["", WITHOUT_PERL], ids=["Perl", "cat"])
def test_one_stream_may_end_before_the_other(tmp_path: Path, before: str) -> None:
    payload = "exec >&-; seq 20000 >&2; exec 2>&-; sleep 0.1"
    done, root = run_job(tmp_path, payload, before=before)
    whole = "".join(f"{number}\n" for number in range(1, 20001))
    assert (done.returncode, (root / "log/stderr.0").read_text()) == (0, whole)
    assert end_of(root).bytes_of == {"stdout": 0, "stderr": len(whole), "messages": 0}


def test_both_streams_at_once_keep_every_byte(tmp_path: Path) -> None:
    _, root = run_job(tmp_path, "seq 40000 & seq 40000 >&2; wait")
    for stream in ("stdout", "stderr"):
        assert (root / f"log/{stream}.0").read_text().split() == [str(number) for number in range(1, 40001)]


@pytest.mark.parametrize(("age_seconds", "is_touched"), [(7200, True), (600, False)])
def test_a_directory_that_was_touched_within_the_hour_is_not_again(
    tmp_path: Path, age_seconds: int, is_touched: bool
) -> None:
    """Sites remove what was not touched for days."""
    script, root = prepared(tmp_path, ":")
    old = int(time.time()) - age_seconds
    os.utime(root.parents[1], (old, old))
    subprocess.run(["bash", str(script)], env=in_slurm(), check=True)
    assert (root.parents[1].stat().st_mtime > old) is is_touched


def test_another_incarnation_has_messages_of_its_own(tmp_path: Path) -> None:
    _, root = run_job(tmp_path, "echo {} >../log/messages", SLURM_RESTART_COUNT="3")
    assert ((root / "log/messages").readlink().name, (root / "log/messages.3").read_text()) == ("messages.3", "{}\n")


def test_a_job_costs_few_processes(tmp_path: Path) -> None:
    """Each is a millisecond of CPU and more, for each job, each task of an array, and each step of a session."""
    script, root = prepared(tmp_path, ":")
    trace, groups = tmp_path / "trace", tmp_path / "groups"
    # Where a control group names the processes of the job, nothing looks for them.
    (groups / f"job_{JOB_ID}/step_batch").mkdir(parents=True)
    (groups / f"job_{JOB_ID}/step_batch/cgroup.procs").touch()
    (tmp_path / "list").write_text(f"0::/job_{JOB_ID}/step_batch\n")
    text = script.read_text().replace("groups_root=/sys/fs/cgroup", f"groups_root='{groups}'")
    text = text.replace("groups_list=/proc/self/cgroup", f"groups_list='{tmp_path}/list'")
    # However busy this machine is, the payload ends soon.
    assert "pause_on 0.25 5" in text and "tries < 10;" in text
    script.write_text(text.replace("pause_on 0.25 5", "pause_on 60 5").replace("tries < 10;", "tries < 6000;"))
    (root / "env.sh").write_text(f"export DAGSTER_SLURM_CHECKPOINT_DIR='{tmp_path}/checkpoint'\n")
    argv = ["strace", "-f", "-qq", "-e", "trace=clone,clone3,fork,vfork,execve", "-o", str(trace), "bash", str(script)]
    done = subprocess.run(argv, env=in_slurm(), capture_output=True, text=True, check=False)
    if done.returncode and re.search(r"ptrace.*(not permitted|denied)", done.stderr):
        pytest.skip(f"tracing is forbidden on this machine: {done.stderr.splitlines()[0]}")
    assert (done.returncode, done.stderr) == (0, "")
    started = {line.split()[0] for line in trace.read_text().splitlines()}
    programs = re.findall(r'execve\("[^"]*/([^/"]+)"', trace.read_text())
    # The gate, what writes the streams, the payload and its directory, and the sizes of the logs.
    assert sorted(programs) == ["bash", "bash", "ln", "mkdir", "perl", "stat"]
    assert len(started) == (6 if BASH_PAUSES_ALONE else 7 if BASH_HAS_SHORT_PIPES else 9)


@pytest.mark.parametrize(("restart", "seen"), [("0", ""), ("1", "shared\n")], ids=["at first", "requeued"])
def test_a_task_makes_no_links_that_came_with_its_directory_unless_it_was_requeued(
    tmp_path: Path, restart: str, seen: str
) -> None:
    """Two processes of each task; a payload that has run before may have replaced them."""
    script, root = prepared(tmp_path, "ls", before="linked=yes\n")
    (root / "work/shared").touch()
    task = root / "elements/3"
    (task / "work").mkdir(parents=True)
    (root / "log").rename(task / "log")
    (task / "env.sh").touch()
    variables = {"SLURM_ARRAY_JOB_ID": JOB_ID, "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": restart}
    done = subprocess.run(["bash", str(script)], env=in_slurm(**variables), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, (task / f"log/stdout.{restart}").read_text()) == (0, "", seen)


@pytest.mark.parametrize("streams", ["", "exec >&- 2>&-; "], ids=["as usual", "with its streams closed"])
def test_a_payload_that_does_not_end_soon_is_attended(tmp_path: Path, streams: str) -> None:
    """Its directory is touched, its memory looked at."""
    hold = "until [ -e attended ]; do sleep 0.05; done; exit 3"
    script, root = prepared(tmp_path, f"{streams}{hold}")
    text = script.read_text()
    assert "exec 6< <(stay_fresh 2>/dev/null)" in text
    noted = ': >"$place/work/attended"; exec 6< <(stay_fresh 2>/dev/null)'
    script.write_text(text.replace("exec 6< <(stay_fresh 2>/dev/null)", noted))
    done = subprocess.run(["bash", str(script)], env=in_slurm(), check=False, timeout=60)
    assert (done.returncode, end_of(root).exit_code) == (3, 3)


MEASURED_AT_ITS_END = """
echo 'what was written' >known
for ((tries = 0; tries < 80; tries++)); do
    exec 8> >(read -r _)
    pumps=$!
    exec 8>&-
    while measure_pumps && [ -n "${moved# }" ]; do :; done
    read -r line <known
    [ "$line" = 'what was written' ] || echo "$line"
done
"""


def test_a_pipe_that_ends_while_it_is_measured_is_not_heard_in_what_is_read_next(tmp_path: Path) -> None:
    """On a loaded machine: a node "has ended with status" and none, for its end line was a line of /proc/PID/io."""
    script = shell_file("dagster_slurm.launchers", "payload.sh") + MEASURED_AT_ITS_END
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


START, END = f"start {JOB_ID} 0 1.0 {{}}\n", f"end {JOB_ID} 0 5 2.0 0 0 0\n"


class TestASecondStartOfTheSameIncarnation:
    """Slurm counts no restart where its controller was killed within three seconds of the first."""

    def test_it_ends_as_the_first_did(self, tmp_path: Path) -> None:
        done, root = run_job(tmp_path, "touch ran", status=START.format("n2") + END)
        assert done.returncode == 5
        assert "has begun before, on n2" in done.stderr
        assert not (root / "work/ran").exists()
        assert (root / "log/status").read_text() == START.format("n2") + END

    def test_it_waits_for_the_first_on_another_node(self, tmp_path: Path) -> None:
        status = tmp_path / "runs/run/it's/0/log/status"

        def end() -> None:
            with status.open("a") as file:
                file.write(END)

        timer = threading.Timer(1.0, end)
        timer.start()
        done, root = run_job(tmp_path, "touch ran", status=START.format("n2"))
        timer.join()
        assert done.returncode == 5
        assert not (root / "work/ran").exists()

    def test_it_waits_for_what_runs_on_its_own_node(self, tmp_path: Path) -> None:
        with subprocess.Popen(["sleep", "1"], env={**os.environ, "SLURM_JOB_ID": JOB_ID}) as first:
            done, root = run_job(tmp_path, "touch ran", status=START.format("n1"))
            assert first.poll() == 0
        assert done.returncode == 0
        assert "nothing of that start is left on n1" in done.stderr
        assert (root / "work/ran").exists()

    def test_a_requeue_is_another_incarnation(self, tmp_path: Path) -> None:
        done, root = run_job(tmp_path, "touch ran", status=START.format("n2").replace(" 0 ", " 1 "))
        assert (done.returncode, done.stderr) == (0, "")
        assert (root / "work/ran").exists()


GOOD = f"end {JOB_ID} 0 0 2.0 0 0 0 started=1.0 nodes=1 killed=0\n"


class TestARequeueAfterAnEnd:
    """As by a preemption while the epilog runs: whoever has seen a good end line has believed it."""

    @pytest.mark.parametrize(
        ("status", "is_done"),
        [
            (START.format("n2") + GOOD, True),
            (START.format("n2") + GOOD.replace(" 0 0 2.0", " 0 1 2.0"), False),
            (START.format("n2") + GOOD.replace("killed=0", "killed=1"), False),
            (START.format("n2") + GOOD.replace(" killed=0", ""), False),
            (START.format("n2") + GOOD.replace("nodes", "told=TERM nodes"), False),
            (START.format("n2") + GOOD.replace(JOB_ID, JOB_ID + "1"), False),
            # A node that was given up has written it when another incarnation had begun.
            (START.format("n2") + f"start {JOB_ID} 1 1.5 n3\n" + GOOD, False),
        ],
        ids=["good", "bad", "killed", "not known", "told to end", "another's", "late"],
    )
    def test_a_payload_that_has_succeeded_is_not_run_again(self, tmp_path: Path, status: str, is_done: bool) -> None:
        done, root = run_job(tmp_path, "touch ran", status=status, SLURM_RESTART_COUNT="2")
        assert (done.returncode, (root / "work/ran").exists()) == (0, not is_done)
        assert ("has succeeded before this job was requeued" in done.stderr) is is_done
        assert ((root / "log/status").read_text() == status) is is_done


@pytest.mark.parametrize(("signal", "told"), [("TERM", "TERM"), ("INT", "INT"), ("USR1", "")])
def test_a_good_end_says_that_the_job_was_told_to_end(tmp_path: Path, signal: str, told: str) -> None:
    payload = f"trap 'exit 0' {signal}; kill -{signal} $PPID; for _ in {{1..200}}; do sleep 0.05; done; exit 9"
    done, root = run_job(tmp_path, payload, SLURM_JOB_NUM_NODES="1")
    end = end_of(root)
    assert (done.returncode, end.figures.told, end.is_proof) == (0, told, not told)


@pytest.mark.parametrize(("signal", "told"), [("TERM", "TERM"), ("USR1", "")])
def test_a_signal_that_comes_before_it_is_noted_which_process_the_payload_is(
    tmp_path: Path, signal: str, told: str
) -> None:
    payload = f"trap 'exit 0' {signal}; kill -{signal} $PPID; for _ in {{1..200}}; do sleep 0.05; done; exit 9"
    script, root = prepared(tmp_path, payload)
    text = script.read_text()
    assert text.count("    payload=$!\n") == 1
    script.write_text(text.replace("    payload=$!\n", "    sleep 0.5\n    payload=$!\n"))
    argv = ["bash", str(script)]
    done = subprocess.run(argv, env=in_slurm(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, end_of(root).figures.told) == (0, told)
    assert "before the payload was started" not in (root / "log/stderr.0").read_text()


def test_what_is_not_of_the_job_lives_on(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "300"], env={**os.environ, "SLURM_JOB_ID": JOB_ID + "1"}) as other:
        try:
            done, _ = run_job(tmp_path, "true")
            assert (done.returncode, other.poll()) == (0, None)
        finally:
            other.kill()


@pytest.mark.parametrize("step", [{}, {"SLURM_STEPID": "6"}], ids=str)
def test_what_looks_for_processes_is_not_found(step: dict[str, str]) -> None:
    text = BATCH_SH.read_text(encoding="utf-8")
    functions = text[text.index("find_by_environment() {") : text.index("sweep() {")]
    looks = 'for _ in {1..20}; do find_leftovers; printf "%s " "${#left[@]}"; done'
    argv = ["bash", "-c", f"{functions}\n{looks}"]
    done = subprocess.run(argv, env=in_slurm(**step), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"] * 20


STARTS_STEPS = """
for step in 4 5; do SLURM_STEP_ID=$step SLURM_STEPID=$step setsid sleep 300 & echo $! >>pids; done
env -u SLURM_STEP_ID SLURM_STEPID=6 setsid sleep 300 & echo $! >>pids
sleep 0.3
"""


@pytest.mark.parametrize("step", [{}, {"SLURM_STEP_ID": "4", "SLURM_STEPID": "4"}, {"SLURM_STEPID": "6"}], ids=str)
def test_a_batch_script_ends_its_steps_and_a_step_itself_alone(tmp_path: Path, step: dict[str, str]) -> None:
    mine = {"": [0, 1, 2], "4": [0], "6": [2]}[step.get("SLURM_STEPID", "")]
    # As the dispatcher of a session, which has started this step, and those beside it.
    dispatcher = subprocess.Popen(["sleep", "300"], env=in_slurm())
    try:
        done, root = run_job(tmp_path, STARTS_STEPS, **step)
        pids = (root / "work/pids").read_text().split()
        gone = [number for number, pid in enumerate(pids) if ProcessIdentity.of(int(pid)) is None]
        assert (done.returncode, gone) == (0, mine)
        assert (dispatcher.poll() is None) is bool(step)
    finally:
        dispatcher.kill()
        dispatcher.wait()
        subprocess.run(["kill", "-KILL", *pids], check=False, stderr=subprocess.DEVNULL)
        eventually(lambda: not any(ProcessIdentity.of(int(pid)) for pid in pids))


def test_no_name_of_ours_reaches_a_payload_with_our_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty names of variables of these scripts (`job`, `log`, `place`, ...) overwrote what a login exports."""
    files = [
        ("job", "figures.sh"),
        ("job", "samples.sh"),
        ("job", "batch.sh"),
        *(("launchers", f"{name}.sh") for name in ("payload", "scratch", "nodes")),
    ]
    text = "\n".join(shell_file(f"dagster_slurm.{package}", name) for package, name in files)
    names = set(re.findall(r"\b([a-z_]+)\+?=", text)) | set(re.findall(r"\bfor (\w+) in", text))
    names |= {word for line in re.findall(r"\bread [^<\n]*", text) for word in re.findall(r"\b[a-z_]+\b", line)}
    names -= {"_"}
    assert {"job", "log", "place", "restart", "claim", "now"} <= names
    for name in names:
        monkeypatch.setenv(name, f"of the login {name}")
    done, root = run_job(tmp_path, "env >env.txt")
    assert (done.returncode, done.stderr) == (0, "")
    seen = (root / "work/env.txt").read_text().splitlines()
    assert [name for name in names if f"{name}=of the login {name}" not in seen] == []
