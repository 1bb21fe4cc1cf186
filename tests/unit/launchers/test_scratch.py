"""Node-local work, as bash does it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.stand_ins.macos import NO_GLOBSTAR, with_bsd_cp

from dagster_slurm.launchers import LaunchPlan, Scratch, script_here


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "run it's" / "work"
    directory.mkdir(parents=True)
    (directory / "in.csv").write_text("input")
    (directory / "in.csv").chmod(0o400)
    (tmp_path / "in place").write_text("in place")
    (directory / "remote").symlink_to(tmp_path / "in place")
    (tmp_path / "node").mkdir()
    return directory


def script(work: Path, payload: str, *outputs: str, base: str = "") -> str:
    env = work.parent / "env.sh"
    env.touch()
    plan = LaunchPlan((), ("bash", "-c", payload)).in_scratch(Scratch(base, outputs))
    return script_here(plan, str(work.parent))


def run(work: Path, payload: str, *outputs: str, base: str = "") -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name not in ("SLURM_TMPDIR", "SCRATCH_LOCAL")}
    variables.update(TMPDIR=str(work.parents[1] / "node"), WORK=str(work))
    return subprocess.run(
        ["bash", "-c", script(work, payload, *outputs, base=base)],
        capture_output=True,
        text=True,
        check=False,
        env=variables,
    )


def node(work: Path) -> list[Path]:
    return list((work.parents[1] / "node").iterdir())


def test_in_and_out(work: Path) -> None:
    payload = (
        'pwd; echo "$DAGSTER_SLURM_SCRATCH"; cat in.csv remote; mkdir -p "a b/deep"; echo 1 >"a b/deep/x.csv";'
        " echo 2 >.hidden.csv; echo 3 >other"
    )
    done = run(work, payload, "a b", "*.csv")
    assert (done.returncode, done.stderr) == (0, "")
    here, told, content = done.stdout.splitlines()
    assert here == told
    assert Path(here).parent == work.parents[1] / "node"
    assert content == "inputin place"
    assert (work / "a b/deep/x.csv").read_text() == "1\n"
    assert sorted(path.name for path in work.iterdir()) == ["a b", "in.csv", "remote"]
    assert node(work) == []


def test_it_is_this_users(work: Path) -> None:
    """Of a name that nobody knows before: one that is there is not taken."""
    done = run(work, "stat -c %a .; pwd")
    mode, path = done.stdout.split("\n", 1)
    assert mode == "700"
    assert run(work, "pwd").stdout != path


def test_globs_of_any_depth_and_names_with_anything(work: Path) -> None:
    payload = "mkdir -p d/e; touch 'd/e/$(touch x) *.nc' d/e/-n.nc -- ; touch d/f.nc"
    done = run(work, payload, "**/*.nc", "nothing*", "absent")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in work.rglob("*.nc")) == ["$(touch x) *.nc", "-n.nc", "f.nc"]


@pytest.mark.parametrize("ending", ["exit 7", "kill -9 $$"])
def test_the_end_stays_the_payloads_and_its_outputs_come_back(work: Path, ending: str) -> None:
    done = run(work, f"echo half >out.txt; {ending}", "out.txt")
    assert done.returncode == (7 if "exit" in ending else 137)
    assert (work / "out.txt").read_text() == "half\n"
    assert node(work) == []


def test_an_input_that_was_replaced_is_an_output_and_the_shared_content_is_not_touched(work: Path) -> None:
    shared = work.parents[1] / "shared"
    os.link(work / "in.csv", shared)
    done = run(work, "rm -f in.csv; echo new >in.csv", "in.csv")
    assert done.returncode == 0, done.stderr
    assert (work / "in.csv").read_text() == "new\n"
    assert shared.read_text() == "input"


def test_no_scratch_runs_nothing(work: Path) -> None:
    done = run(work, "echo ran", base="/proc/nothing")
    assert (done.returncode, done.stdout) == (74, "")
    assert "there can be no scratch directory in /proc/nothing; nothing was run" in done.stderr


@pytest.mark.parametrize(("ending", "code"), [("true", 74), ("exit 3", 3)])
def test_a_copy_back_that_fails_fails_what_would_have_succeeded(work: Path, ending: str, code: int) -> None:
    done = run(work, f'echo 1 >out; rm -rf "$WORK"; touch "$WORK"; {ending}', "out")
    assert done.returncode == code
    assert "cannot copy the outputs from" in done.stderr
    (left,) = node(work)
    assert (left / "out").read_text() == "1\n", "what nobody has read was removed"


@pytest.mark.parametrize(("outputs", "code"), [(("a b", "*.csv", "in.csv"), 0), (("**/*.csv",), 74)])
def test_with_the_programs_of_macos(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: tuple[str, ...], code: int
) -> None:
    """`cp --parents` and `globstar` are GNU's and of bash 4: no output came back, and the payload had failed."""
    with_bsd_cp(tmp_path / "bin", monkeypatch)
    payload = 'mkdir -p "a b/deep"; echo 1 >"a b/deep/x.csv"; echo 2 >y.csv; echo 3 >n; mv n in.csv; touch -- -d.csv'
    done = subprocess.run(
        ["bash", "-c", NO_GLOBSTAR + script(work, payload, *outputs, base=str(tmp_path / "node"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert "an output with ** needs bash 4 or newer" in done.stderr
        assert "are left there" in done.stderr
        return
    assert (work / "a b/deep/x.csv").read_text() == "1\n"
    assert ((work / "y.csv").read_text(), (work / "in.csv").read_text()) == ("2\n", "3\n")
    assert (work / "-d.csv").exists()
    assert node(work) == []


def test_a_terminated_payload_leaves_no_scratch(work: Path) -> None:
    payload = 'trap "echo last >out; exit 9" TERM; echo ready; while :; do sleep 0.05; done'
    process = subprocess.Popen(
        ["bash", "-c", script(work, payload, "out", base=str(work.parents[1] / "node"))],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(10) == 9
    process.stdout.close()
    assert (work / "out").read_text() == "last\n"
    assert node(work) == []


def test_the_first_line_of_most_batch_scripts_stays_where_the_payload_is(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd $SLURM_SUBMIT_DIR` left the node's directory, and in a task of an array that of the task."""
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(work.parents[1]))
    done = run(work, "cd $SLURM_SUBMIT_DIR; echo 1 >result", "result")
    assert (done.returncode, done.stderr) == (0, "")
    assert (work / "result").read_text() == "1\n"
    assert not (work.parents[1] / "result").exists()
