"""Forked processes are, to a test, what started ones are."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support import forked
from tests.support.waiting import eventually

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


def test_pipes() -> None:
    talk = "import sys; print('first', flush=True); print('and', sys.stdin.read())"
    process = forked.start([sys.executable, "-c", talk], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    process.stdin.write("second")
    assert process.communicate(timeout=10) == ("and second\n", None)
    assert process.returncode == 0


def test_dagster_has_been_imported() -> None:
    done = forked.run([sys.executable, "-c", "import sys; print('dagster._cli' in sys.modules)"])
    assert done.stdout == "True\n", done.stderr
    assert forked.run(["dagster", "--version"]).stdout.startswith("python -m dagster, version 1.")
    assert forked.run(["dagster-slurm", "--help"]).stdout.startswith("Usage: ")


class TestPrograms:
    """Those that stand in a PATH."""

    @staticmethod
    def path() -> dict[str, str]:
        return {**os.environ, "PATH": f"{forked.programs()}:{os.environ['PATH']}"}

    def test_streams_and_exit_code(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "import dagster, sys\nprint('in', input(), sys.argv, flush=True)\n"
            "print('err', file=sys.stderr)\nsys.exit(3)\n"
        )
        line = f"cd {tmp_path} && echo a word | python script.py x"
        done = subprocess.run(["bash", "-c", line], env=self.path(), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (3, "in a word ['script.py', 'x']\n", "err\n")

    def test_they_are_forked_or_python_itself(self) -> None:
        for line, said in [
            ("dagster --version", "python -m dagster, version 1."),
            ("dagster-slurm --help", "Usage: "),
            ("python -m dagster --version", "python -m dagster, version 1."),
            ("python -c 'import sys; print(sys.executable, \"dagster\" in sys.modules)'", f"{sys.executable} False"),
        ]:
            done = subprocess.run(["bash", "-c", line], env=self.path(), capture_output=True, text=True, check=False)
            assert done.stdout.startswith(said), (line, done.stderr)

    def test_a_spawned_process_has_pipes_and_is_forked(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(SPAWNING)
        done = forked.run([sys.executable, str(script)], children=True, timeout=60)
        assert done.stdout == "True 41\nTrue 42\n", done.stderr

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_signals(self, tmp_path: Path, number: int) -> None:
        """One that is killed takes its fork along, and what that has started."""
        script = tmp_path / "script.py"
        script.write_text(
            "import dagster, os, subprocess\nprint(os.getpid(), flush=True)\nsubprocess.run(['sleep', '60'])\n"
        )
        process = subprocess.Popen(
            ["bash", "-c", f"exec python {script}"], env=self.path(), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        fork = Path("/proc", process.stdout.readline().strip())
        children = Path(fork, "task", fork.name, "children")
        (child,) = eventually(lambda: children.read_text().split())
        process.send_signal(number)
        assert process.wait(30) == -number
        process.stdout.close()
        eventually(lambda: not fork.exists())
        if number == signal.SIGKILL:
            eventually(lambda: not Path("/proc", child).exists())
        else:
            # It lives on, or went with the group of its fork, whichever came first.
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)


SPAWNING = """
import multiprocessing, sys

def add(queue, number):
    queue.put((sys.argv is not None and "dagster" in sys.modules, number + 1))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for number in (40, 41):
        queue = context.Queue()
        process = context.Process(target=add, args=(queue, number))
        process.start()
        print(*queue.get())
        process.join()
        assert process.exitcode == 0
"""
