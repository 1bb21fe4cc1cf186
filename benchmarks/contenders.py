"""Who takes part, and how each is set up and started, as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import common
from arrivals import Arrivals, Messages

from dagster_slurm.sandbox import LoginNode, Sandbox

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dagster-slurm-benchmarks"
RELEASED = "dagster-slurm"
JOB_SECONDS = 10
TASK_SECONDS = 1
# The meter ends what takes longer than 400 s; this is for the meter itself.
LIMIT_SECONDS = 500


@dataclass(frozen=True)
class Ended:
    """A contender has ended: its exit code, the meter's line, the end of what it said, and, of Dagster, what follows.

    Args:
        delays: Of log lines, in seconds.
        message_delays: Of messages through Dagster Pipes, in seconds.
        output_bytes: The size of the compute logs.
        last_line_at: When the last line was printed, in seconds since the epoch.
        last_step_at: When the last step has succeeded.
    """

    status: int
    meter: str
    said: str
    delays: Sequence[float] = ()
    message_delays: Sequence[float] = ()
    output_bytes: int = 0
    last_line_at: float = 0.0
    last_step_at: float = 0.0


@dataclass
class Site:
    """The sandbox, its login node for what comes over SSH, and the environments in which the contenders run."""

    sandbox: Sandbox
    node: LoginNode

    @cached_property
    def released_python(self) -> str:
        """The interpreter of a virtual environment with the newest release that pip finds."""
        directory = CACHE / "released"
        python = directory / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
        uv = Path(sys.executable).parent / "uv"
        subprocess.run([uv, "pip", "install", "--quiet", "--upgrade", "--python", python, RELEASED], check=True)
        return str(python)

    @cached_property
    def submitit_python(self) -> str:
        """An interpreter with `submitit`, for the cluster's user."""
        return self.sandbox.create_environment("submitit", ["submitit"]) + "/bin/python"

    @cached_property
    def deployed(self) -> str:
        """An environment on the cluster in the layout of `pixi-pack`, which both releases take."""
        made = self.sandbox.create_environment("benchmark", ["dagster-pipes"])
        directory = self.sandbox.home / "deployed"
        directory.mkdir(exist_ok=True)
        (directory / "env").unlink(missing_ok=True)
        (directory / "env").symlink_to(made)
        (directory / "activate.sh").write_text(f'export PATH="{directory}/env/bin:$PATH"\n')
        return str(directory)

    def prepare(self) -> None:
        """Make everything before anything is measured."""
        # An installed wheel has its byte code; a checkout on a machine that writes none would compile at each start.
        subprocess.run([sys.executable, "-m", "compileall", "-q", HERE.parent / "src"], check=True)
        assert self.released_python and self.submitit_python and self.deployed


def with_dagster(
    site: Site,
    python: str,
    program: str,
    number: int,
    payload: str,
    seconds: int = JOB_SECONDS,
    *,
    keeps: bool = False,
) -> Ended:
    """`dagster job execute` on this machine, with Dagster's own event log or the one that keeps its connections."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        directory = Path(name)
        shutil.copytree(PROGRAMS, directory / "programs")
        home = common.make_dagster_home(directory, keeps=keeps)
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
            **site.node.env(),
            "NUMBER": str(number),
            "PAYLOAD": payload,
            "PAYLOAD_SECONDS": str(seconds),
            "DEPLOYED_ENVIRONMENT": site.deployed,
            "DAGSTER_HOME": str(home),
            "DAGSTER_SLURM_SSH_CONTROL_DIR": str(directory / "c"),
        }
        argv = [python, "-m", "dagster", "job", "execute", "-f", f"programs/{program}", "-j", "all"]
        messages = Messages(home)
        looking = messages if payload == "messages.py" else nullcontext()
        with Arrivals(home) as arrivals, looking, (directory / "said").open("w") as said:
            done = subprocess.run(
                [sys.executable, HERE / "meter.py", *argv],
                cwd=directory,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        return Ended(
            done.returncode,
            done.stdout,
            (directory / "said").read_text()[-2000:],
            arrivals.delays,
            messages.delays,
            arrivals.output_bytes,
            arrivals.last_at,
            messages.last_success_at(),
        )


def on_login_node(site: Site, argv: Sequence[str]) -> Ended:
    """A command on the login node, in a directory of its own that has the programs."""
    with _directory_on(site.sandbox) as directory:
        shutil.copytree(PROGRAMS, directory, dirs_exist_ok=True)
        shutil.copy(HERE / "meter.py", directory)
        command = ["sh", "-c", 'cd "$1" && shift && exec python3 meter.py "$@"', "sh", str(directory), *argv]
        done = site.sandbox.run(command, timeout_seconds=LIMIT_SECONDS)
        return Ended(done.returncode, done.stdout, done.stderr[-2000:])


@contextmanager
def _directory_on(sandbox: Sandbox) -> Iterator[Path]:
    made = Path(sandbox.run(["mktemp", "-d", f"{sandbox.home}/bench.XXXXXX"]).stdout.strip())
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Args:
        key: The name on the command line and in the figures.
        numbers: Of jobs or tasks that it is measured with; none is all.
        start: Runs that many and returns when all have ended.
    """

    key: str
    start: Callable[[Site, int], Ended]
    numbers: Sequence[int] = field(default=())

    def takes(self, number: int) -> bool:
        return not self.numbers or number in self.numbers


JOBS = (
    Contender("sbatch", lambda site, n: on_login_node(site, ["bash", "by_hand.sh", str(n), str(JOB_SECONDS)])),
    Contender("empty", lambda site, n: with_dagster(site, sys.executable, "empty.py", n, "payload.sh")),
    Contender("threaded", lambda site, n: with_dagster(site, sys.executable, "threaded.py", n, "payload.sh")),
    Contender(
        "threaded-kept", lambda site, n: with_dagster(site, sys.executable, "threaded.py", n, "payload.sh", keeps=True)
    ),
    Contender(
        "submitit",
        lambda site, n: on_login_node(site, [site.submitit_python, "by_submitit.py", str(n), str(JOB_SECONDS)]),
    ),
    Contender(
        "threaded-pipes",
        lambda site, n: with_dagster(site, sys.executable, "threaded.py", n, "payload.py"),
        numbers=(20,),
    ),
    # With 20 it takes most of the memory of a small machine, and each further one costs more.
    Contender(
        "released",
        lambda site, n: with_dagster(site, site.released_python, "released.py", n, "payload.py"),
        numbers=(1, 10, 20),
    ),
)
ARRAYS = (
    Contender("sbatch", lambda site, n: on_login_node(site, ["bash", "by_hand_array.sh", str(n), str(TASK_SECONDS)])),
    Contender(
        "empty-partitions", lambda site, n: with_dagster(site, sys.executable, "empty_partitions.py", n, "payload.sh")
    ),
    Contender(
        "partitions",
        lambda site, n: with_dagster(site, sys.executable, "partitions.py", n, "payload.sh", TASK_SECONDS),
    ),
    Contender(
        "partitions-kept",
        lambda site, n: with_dagster(site, sys.executable, "partitions.py", n, "payload.sh", TASK_SECONDS, keeps=True),
    ),
    # Each of its tasks starts srun and Python: with 1,000 on a busy machine slurmd did not answer it in time.
    Contender(
        "submitit",
        lambda site, n: on_login_node(site, [site.submitit_python, "by_submitit.py", str(n), str(TASK_SECONDS)]),
        numbers=(10, 100),
    ),
)
