"""Forked processes are, to a test, what started ones are."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import forked

pytestmark = pytest.mark.process

TELL = "import os, sys; print(sys.argv, os.getcwd(), os.environ['WHO'], sys.path[0]); print('err', file=sys.stderr); "
BOTH = (forked.run, lambda argv, **how: subprocess.run(argv, capture_output=True, text=True, check=False, **how))


@pytest.mark.parametrize("run", BOTH, ids=["forked", "started"])
def test_arguments_directory_environment_streams_and_exit_code(run: object, tmp_path: Path) -> None:
    assert callable(run)
    done = run([sys.executable, "-c", TELL + "sys.exit(3)", "a b", "c"], cwd=tmp_path, env={"WHO": "me"})
    assert (done.returncode, done.stdout, done.stderr) == (3, f"['-c', 'a b', 'c'] {tmp_path} me \n", "err\n")


@pytest.mark.parametrize("run", BOTH, ids=["forked", "started"])
def test_a_script_finds_what_lies_beside_it(run: object, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'found'\n")
    (tmp_path / "script.py").write_text("import beside, sys\nprint(beside.WORD, __name__, sys.argv)\n")
    assert callable(run)
    done = run([sys.executable, str(tmp_path / "script.py"), "x"], cwd="/", env={})
    assert done.stdout == f"found __main__ ['{tmp_path}/script.py', 'x']\n", done.stderr


def test_its_environment_can_be_read_in_proc(tmp_path: Path) -> None:
    look = "from pathlib import Path; print(Path('/proc/self/environ').read_bytes().rstrip(b'\\0'))"
    done = forked.run([sys.executable, "-c", look], env={"A": "1", "LONG": "x" * 9000})
    assert done.stdout == repr(b"A=1\0LONG=" + b"x" * 9000) + "\n", done.stderr


def test_signals_and_sessions(tmp_path: Path) -> None:
    process = forked.start([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    assert process.poll() is None
    assert os.getsid(process.pid) == process.pid
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL


def test_dagster_has_been_imported() -> None:
    done = forked.run([sys.executable, "-c", "import sys; print('dagster._cli' in sys.modules)"])
    assert done.stdout == "True\n", done.stderr
    assert forked.run(["dagster", "--version"]).stdout.startswith("python -m dagster, version 1.")
    assert forked.run(["dagster-slurm", "--help"]).stdout.startswith("Usage: ")
