"""Plans, and the bash made of them: golden text, and hostile values read back by a real bash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagster_slurm.environments import CLUSTER_PYTHON, Activation, activate_deployed
from dagster_slurm.environments.recipe import ISOLATED
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.job.batch_script import batch_script, env_file
from dagster_slurm.launchers import (
    LaunchPlan,
    Payload,
    Place,
    direct_plan,
    launch_script,
    payload_command,
    payload_from_path,
    script_here,
)
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import merge

GOLDEN = """\
launch() {
    trap refuse_success EXIT
    enter_place || exit 74
    enter_hooks || exit
    . /env/activate.sh
    export SLURM_SUBMIT_DIR="$PWD"
    set -- "$run_directory" "$place"
    restore_login
    read_variables "$@" || exit 74
    exec /env/bin/python 'it'"'"'s.py'
}"""

GOLDEN_HEAD = """\
#!/bin/bash
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output="/b a/runs/r/k/0/log/slurm.log"
#SBATCH --signal=B:TERM@60

run_directory='/b a/runs/r/k/0'
forwarded_signals='USR1 USR2 TERM'
component=
linked=
launch() { :; }
# shellcheck shell=bash
"""

values = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40)
names = st.from_regex(r"V_[A-Za-z0-9_]{0,8}", fullmatch=True)


def run_here(plan: LaunchPlan, directory: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", script_here(plan, str(directory))], capture_output=True, check=False)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory for the payload's files, in one that has no variables for it."""
    (tmp_path / "env.sh").touch()
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize(
    ("payload", "command"),
    [
        (Payload("main.py", "python", Path("x")), ("py", "main.py")),
        (Payload("run.sh", "bash", Path("x")), ("bash", "run.sh")),
        (Payload("tool", None, Path("x")), ("./tool",)),
        (Payload("-x.py", "python", Path("x")), ("py", "./-x.py")),
        (Payload("/opt/main.py", "python", None), ("py", "/opt/main.py")),
        (Payload("/opt/tool", None, None), ("/opt/tool",)),
        (Payload("prepare", "python", Path("x")), ("py", "prepare")),
        (Payload("-x", "python", Path("x")), ("py", "./-x")),
        (Payload("package", "python", Path("x"), "module"), ("py", "-m", "package")),
        (Payload("package.module", "python", None, "module"), ("py", "-m", "package.module")),
        (Payload("a.b:run", "python", None, "function"), ("py", "-c", "from a.b import run; run()")),
        (Payload("a:Fit.run", "python", None, "function"), ("py", "-c", "from a import Fit; Fit.run()")),
    ],
)
def test_direct_plan(payload: Payload, command: tuple[str, ...]) -> None:
    assert direct_plan(payload, Place(Activation(("setup",), "py", ""))) == LaunchPlan(("setup",), command)
    assert payload_command(payload, Activation((), "py", "")) == command
    wrapped = Activation(("setup",), "py", "", wrapper=("apptainer", "exec", "/image.sif"))
    assert direct_plan(payload, Place(wrapped)) == LaunchPlan(("setup",), ("apptainer", "exec", "/image.sif", *command))


def test_a_wrapper_gets_the_command_word_by_word(work: Path) -> None:
    (work / "a b.sh").write_text('echo "$FROM_WRAPPER"')
    activation = Activation((), "python3", "", wrapper=("env", "FROM_WRAPPER=it's $(x)"))
    done = run_here(direct_plan(Payload("a b.sh", "bash", work), Place(activation)), work.parent)
    assert (done.returncode, done.stdout) == (0, b"it's $(x)\n")


FUNCTIONS = """\
import sys

def good():
    print(__name__, sys.path[0])
    return 3

def bad():
    raise ValueError("it went wrong")

def leave():
    sys.exit(7)

class Fit:
    @staticmethod
    def run():
        print("fitted")
"""


@pytest.mark.parametrize(
    ("text", "exit_code", "said", "last_line"),
    [
        ("lib.jobs:good", 0, "lib.jobs \n", ""),
        ("lib.jobs:Fit.run", 0, "fitted\n", ""),
        ("lib.jobs:leave", 7, "", ""),
        ("lib.jobs:bad", 1, "", "ValueError: it went wrong"),
        ("lib.jobs:missing", 1, "", "ImportError: cannot import name 'missing' from 'lib.jobs'"),
        ("lib.absent:run", 1, "", "ModuleNotFoundError: No module named 'lib.absent'"),
        ("absent:run", 1, "", "ModuleNotFoundError: No module named 'absent'"),
        ("lib.jobs:FUNCTIONS", 1, "", "ImportError: cannot import name 'FUNCTIONS' from 'lib.jobs'"),
        ("lib.jobs:sys.path", 1, "", "TypeError: 'list' object is not callable"),
    ],
)
def test_functions_as_python_calls_them(work: Path, text: str, exit_code: int, said: str, last_line: str) -> None:
    (work / "lib").mkdir()
    (work / "lib" / "jobs.py").write_text(FUNCTIONS)
    done = run_here(direct_plan(payload_from_path(text), Place(Activation((), sys.executable, ""))), work.parent)
    stderr = done.stderr.decode()
    assert (done.returncode, done.stdout.decode()) == (exit_code, said), stderr
    assert (stderr.splitlines() or [""])[-1].startswith(last_line)
    # No line of a runner, nor of importlib: the call, and the payload's own.
    assert [line for line in stderr.splitlines() if "importlib" in line] == []
    assert stderr.count('File "') <= 2


def test_activations() -> None:
    assert CLUSTER_PYTHON.setup == ()
    packed = activate_deployed("/env a", "packed", setup=("module load x",))
    assert packed.setup == (ISOLATED, "module load x", ". '/env a/activate.sh'")
    assert packed.python == "/env a/env/bin/python"
    prefix = activate_deployed("/env a", "prefix")
    assert prefix.python == "/env a/bin/python"
    script = "\n".join((*prefix.setup, 'printf "%s|%s" "$VIRTUAL_ENV" "${PATH%%:*}"'))
    assert subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout == b"/env a|/env a/bin"


@pytest.mark.parametrize(
    "variables", [{}, {"PYTHONPATH": "/x", "PYTHONHOME": "/y", "CONDA_PREFIX": "/z", "CONDA_EXE": "c"}]
)
def test_what_a_login_sets_does_not_get_in(variables: dict[str, str]) -> None:
    shows = 'printf "%s|%s|%s|%s" "${PYTHONPATH-none}" "${PYTHONHOME-none}" "${!CONDA_*}" "$PYTHONNOUSERSITE"'
    argv = ["bash", "-euc", f"{ISOLATED}\n{shows}"]
    done = subprocess.run(argv, capture_output=True, check=True, env={"PATH": os.environ["PATH"], **variables})
    assert done.stdout == b"none|none||1"


def test_golden_function() -> None:
    plan = LaunchPlan((". /env/activate.sh",), ("/env/bin/python", "it's.py"))
    script = launch_script(plan)
    assert script.startswith("hooks=()\n")
    assert script.endswith(f"\n{GOLDEN}")
    here = script_here(plan, "/runs/it's")
    assert here.startswith("run_directory='/runs/it'\"'\"'s'\nplace=$run_directory\nforwarded_signals=\nhooks=()\n")
    assert here.endswith(f"\n{GOLDEN}\nlaunch")


@given(
    st.dictionaries(names, values, max_size=5),
    st.lists(values, max_size=3),
    st.sampled_from(["a b", "it's", "$(x)", "é;"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_values_and_paths_arrive_in_the_payload(
    tmp_path: Path, variables: dict[str, str], args: list[str], directory: str
) -> None:
    work = tmp_path / directory / "work"
    work.mkdir(exist_ok=True, parents=True)
    (tmp_path / directory / "env.sh").write_text(env_file(variables))
    show = 'printf "%s\\0" "$PWD" "$@"; env -0 | grep -z ^V_'
    plan = LaunchPlan(("V_=overridden", "export V_"), ("bash", "-c", show, "bash", *args))
    done = run_here(plan, tmp_path / directory)
    assert done.stderr == b""
    words = done.stdout.decode().split("\0")[:-1]
    assert words[: len(args) + 1] == [str(work), *args]
    seen = dict(word.split("=", 1) for word in words[len(args) + 1 :])
    assert seen == {"V_": "overridden", **variables}


@pytest.mark.parametrize("missing", ["work", "env.sh"])
def test_a_directory_or_file_that_cannot_be_had_runs_nothing(tmp_path: Path, missing: str) -> None:
    there = {"work": "env.sh", "env.sh": "work"}[missing]
    # A file where the directory would be made.
    (tmp_path / "work").touch() if missing == "work" else (tmp_path / there).mkdir()
    (tmp_path / "env.sh").touch() if missing == "work" else None
    done = run_here(LaunchPlan((), ("echo", "ran")), tmp_path)
    assert (done.returncode, done.stdout) == (74, b"")


@pytest.mark.parametrize("name", ["", "1A", "A B", "A-B", "A=B", "A\n", "é", "$A", "A;x"])
def test_names_that_no_shell_exports_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="not the name of an environment variable"):
        env_file({name: "x"})


def test_a_value_with_nul_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="NUL"):
        env_file({"A": "a\0b"})


def test_a_working_directory_without_uploaded_files_is_made(tmp_path: Path) -> None:
    (tmp_path / "env.sh").touch()
    assert run_here(LaunchPlan((), ("pwd",)), tmp_path).stdout.decode() == f"{tmp_path}/work\n"


def test_golden_env_file() -> None:
    assert env_file({"B": "it's", "A": ""}) == "export B='it'\"'\"'s'\nexport A=''\n"
    assert env_file({}) == ""


def test_golden_head_of_the_batch_script() -> None:
    request = merge({"nodes": 1, "signal_before_timeout": "B:TERM@60"})
    script = batch_script(request, directory=RunDirectory("/b a", "r", "k"), launch="launch() { :; }")
    assert script.startswith(GOLDEN_HEAD)
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=False).returncode == 0


@pytest.mark.parametrize(
    ("signal", "forwarded"), [(None, "USR1 USR2"), ("B:USR1@60", "USR1 USR2"), ("HUP@9", "USR1 USR2 HUP")]
)
def test_forwarded_signals(signal: str | None, forwarded: str) -> None:
    request = merge({"signal_before_timeout": signal})
    script = batch_script(request, directory=RunDirectory("/b", "r", "k"), launch="")
    assert f"forwarded_signals='{forwarded}'" in script.splitlines()
