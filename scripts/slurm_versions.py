#!/usr/bin/env python3
"""Run the sandbox and a choice of the suite with the Slurm of another Debian, in a tree of that Debian.

Usage: slurm_versions.py [SUITE] [--record | -- COMMAND ...]. Needs root on Debian, and the machine's mirror.
SUITE is `trixie` (Slurm 24.11.5, its Python 3.13), `testing` (26.05.5, its Python 3.14) or `bullseye` (20.11.4, this
machine's Python). With `--record` what its Slurm prints is recorded anew; a COMMAND is run in place of the tests.

A tree is made once, below /var/cache/dagster-slurm-trees or $DAGSTER_SLURM_TREES; remove its directory to have it made
anew. A run has namespaces of its own, so that no mounts, processes or interfaces can be left behind.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
TREES_VARIABLE = "DAGSTER_SLURM_TREES"
DEFAULT_TREES = Path("/var/cache/dagster-slurm-trees")
PYTHON = "/opt/dagster-slurm/bin/python"
WHEELS = "/opt/wheels"
WORKERS = 3
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PACKAGES = (
    *("slurm-wlm", "slurmdbd", "munge", "mariadb-server", "openssh-server", "openssh-client"),
    *("iproute2", "util-linux", "mount", "passwd", "procps", "ca-certificates"),
    *("tcsh", "fish", "libpam-oath"),
)
_OF_PIP = ("INDEX_URL", "EXTRA_INDEX_URL", "TRUSTED_HOST", "PROXY", "CERT", "DEFAULT_TIMEOUT")
NETWORK_VARIABLES = frozenset(
    (*(f"PIP_{name}" for name in _OF_PIP), *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "NO", "ALL")))
)
_SANDBOX, _ARRAYS = "tests/cluster/test_sandbox.py", "tests/partitions/test_on_slurm.py"
# Submission, ends, retries and arrays, and the sandbox itself: what each of its daemons is broken and mended for.
TESTS = (
    "tests/cluster/test_submission.py",
    "tests/assets/test_ends.py",
    "tests/assets/test_retries.py",
    *(
        f"{_ARRAYS}::{name}"
        for name in (
            "test_one_array_and_a_record_for_each_partition",
            "test_failures_fail_alone_and_a_retry_submits_only_those",
            "test_killed_in_flight_and_retried",
            "test_more_than_an_array_may_have",
        )
    ),
    # A step by `srun --exact`, and components by `srun --het-group`.
    "tests/assets/test_sessions.py",
    "tests/hetjobs/test_on_slurm.py",
    "tests/contract/test_work_followed.py::test_a_termination_cancels_what_runs_and_nothing_begins_after_it",
    # squeue's and sacct's fields for people, and a shell by `srun --overlap`.
    "tests/cluster/test_job_commands.py",
    *(
        f"{_SANDBOX}::test_a_broken_part_is_seen_and_comes_back[{part}-end]"
        for part in ("sshd", "slurmctld", "slurmdbd", "mariadb", "munged", "slurmd:n1", "node:n2")
    ),
    *(
        f"{_SANDBOX}::{name}"
        for name in (
            "test_every_node_has_its_name_and_address_and_knows_the_others",
            "test_too_much_memory_ends_the_job",
            "test_login_by_key_and_its_counters",
            "test_strict_login_takes_the_password_and_no_key",
            "test_rpc_counts_go_up_with_the_users_questions",
            "test_the_options_of_a_login_node_are_in_force_and_wrong_ones_are_told",
            "test_a_controller_that_is_killed_before_its_first_save_comes_back",
        )
    ),
)


@dataclass(frozen=True)
class Debian:
    """A release of Debian.

    Args:
        suite: Its name at the mirror.
        slurm: The version of its Slurm.
        packages: What it has besides `PACKAGES`.
        first_uid: From which number on users are made in its tree.
        own_python: Whether its Python is one of those that this project runs on.
    """

    suite: str
    slurm: str
    packages: tuple[str, ...]
    first_uid: int
    own_python: bool = True


_WITH_PYTHON = ("slurm-wlm-mysql-plugin", "python3", "python3-venv")
DEBIANS = {
    "bullseye": Debian("bullseye", "20.11.4", (), 41_000, own_python=False),
    "trixie": Debian("trixie", "24.11.5", _WITH_PYTHON, 42_000),
    "testing": Debian("testing", "26.05.5", _WITH_PYTHON, 43_000),
}


class Tree:
    """A tree of a Debian, and the directory that holds what belongs to it."""

    def __init__(self, debian: Debian) -> None:
        self.debian = debian
        self.place = Path(os.environ.get(TREES_VARIABLE) or DEFAULT_TREES).resolve() / debian.suite
        self.root = self.place / "tree"
        # A mount point in the tree; the sandboxes' own directory goes with the last of them.
        self.mounted = self.place / "var"
        self.sandboxes = self.mounted / "sandboxes"

    def environment(self, *, keep: bool) -> dict[str, str]:
        """What a command in the tree finds; with a network, the variables by which pip reaches an index too."""
        network = {name: value for name, value in os.environ.items() if name.upper() in NETWORK_VARIABLES}
        if not keep:
            network = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS}
        own = {
            "PATH": _PATH,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "CI": "true",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DAGSTER_SLURM_SANDBOX_DIR": str(self.sandboxes),
            "FIRST_UID": str(self.debian.first_uid),
        }
        return {**network, **own, **({} if self.debian.own_python else machine_python())}

    def enter(self, *argv: str, keep: bool = False) -> int:
        """Run a command in the tree and return its status.

        Args:
            argv: The command.
            keep: Whether what it changes in the tree stays; only then it has the machine's network. Without, ports and
                subnets are its own, and no sandbox of the machine comes in between.
        """
        # Killed with this process, also by SIGKILL; and with their first process all others of the namespace.
        outside = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--propagation=private"]
        outside += ["--pid", "--fork", "--kill-child", *([] if keep else ["--net"])]
        script = ["/bin/sh", str(CHECKOUT / "scripts" / "in_tree.sh"), "keep" if keep else "try"]
        child = subprocess.Popen(
            [*outside, *script, str(self.place), str(CHECKOUT), *argv], env=self.environment(keep=keep)
        )
        try:
            return child.wait()
        except KeyboardInterrupt:
            # The tests were told too, by the terminal, and take their sandboxes down.
            return child.wait(timeout=90)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()

    def clean(self) -> None:
        """Take down what a run that was killed has left of its sandboxes outside of its namespaces: control groups."""
        for state in sorted(path for path in self.sandboxes.glob("*") if path.is_dir()):
            program = "from dagster_slurm.cli import main; main()"
            self.enter(PYTHON, "-c", program, "sandbox", "down", "--name", state.name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else uses the tree within the block, and nothing of a sandbox is left after it."""
        for directory in (self.mounted, self.place / "root"):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self.place / "lock").open("w") as lock:
            say(f"the tree lies in {self.root}")
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                prepare(self)
                self.clean()
                yield
            finally:
                self.clean()


_STARTED = time.monotonic()


def say(message: str) -> None:
    """Say what is being done, and after how many seconds."""
    print(f"slurm-versions: {time.monotonic() - _STARTED:5.1f} s  {message}", file=sys.stderr, flush=True)


def run(*argv: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a program quietly; what it said is shown if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\n{shlex.join(argv)}: ended with status {done.returncode}")


def prepare(tree: Tree) -> None:
    """Make the tree and, in it, the environment that the tests need, as far as they are missing or out of date."""
    if not tree.root.exists():
        make(tree)
    noted = tree.root / "opt" / "made-for"
    wanted = hashlib.sha256((CHECKOUT / "pyproject.toml").read_bytes()).hexdigest() + f" {CHECKOUT}"
    if not noted.exists() or noted.read_text() != wanted:
        install(tree)
        noted.write_text(wanted)


def make(tree: Tree) -> None:
    """Make the tree with mmdebstrap, from the mirror of this machine's own apt."""
    if shutil.which("mmdebstrap") is None:
        say("installing the Debian package mmdebstrap")
        run("apt-get", "update")
        install = ("apt-get", "install", "-y", "--no-install-recommends", "mmdebstrap")
        run(*install, environment={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    say(f"making a tree of Debian {tree.debian.suite} ...")
    unfinished = tree.place / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    # The Release file of `testing` may have expired at a mirror that is a snapshot.
    options = ('Apt::Install-Recommends "false"', 'Acquire::Check-Valid-Until "false"', 'Acquire::Check-Date "false"')
    run(
        *("mmdebstrap", "--mode=root", "--variant=apt", *(f"--aptopt={option}" for option in options)),
        *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "doc", "locale")),
        f"--include={','.join((*PACKAGES, *tree.debian.packages))}",
        *(tree.debian.suite, str(unfinished), f"deb {mirror()} {tree.debian.suite} main"),
    )
    unfinished.rename(tree.root)


def mirror() -> str:
    """Where this machine's apt gets Debian from."""
    asked = ["apt-get", "indextargets", "--format", "$(LABEL) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    for line in answer.splitlines():
        label, _, rest = line.partition(" ")
        component, _, address = rest.partition(" ")
        if (label, component) == ("Debian", "main"):
            return address
    raise SystemExit("apt knows of no mirror of Debian: run `apt-get update`.")


def install(tree: Tree) -> None:
    """Make an environment of the tree's own Python, with the project as it stands in the checkout.

    What tests install for the cluster's user is fetched, since they have no network.
    """
    say("installing the project and its tools with the tree's Python ...")
    own = (
        ("python3", "-m", "venv", str(Path(PYTHON).parent.parent)),
        (PYTHON, "-m", "pip", "install", "--quiet", "--no-compile", "--editable", f"{CHECKOUT}[dev]"),
    )
    wheels = (PYTHON, "-m", "pip", "download", "--quiet", "--dest", WHEELS, "dagster-pipes")
    for argv in (*(own if tree.debian.own_python else ()), wheels):
        if tree.enter(*argv, keep=True):
            raise SystemExit(f"{shlex.join(argv)} did not work in the tree")


def machine_python() -> dict[str, str]:
    """What scripts/in_tree.sh needs to run this machine's Python, with the packages of `.venv`, in a tree."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    program = Path("/usr/bin") / name
    libraries = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH"))
    loaders = sorted(libraries.glob("ld-linux*.so.*"))
    if not program.exists() or not loaders:
        raise SystemExit(
            f"{program} is missing, whose minor version .venv has: install Debian's python3, make it anew."
        )
    return {
        "MACHINE_PYTHON": str(program),
        "MACHINE_LIBRARIES": str(libraries),
        "MACHINE_LOADER": loaders[0].name,
        "MACHINE_PACKAGES": sysconfig.get_path("purelib"),
    }


def tests() -> tuple[str, ...]:
    """The command that runs the choice of the suite."""
    return (PYTHON, "-m", "pytest", "-n", str(WORKERS), "-p", "no:cacheprovider", *TESTS)


def recording() -> tuple[str, ...]:
    """The command that records what Slurm prints."""
    up = f"{PYTHON} -c 'from dagster_slurm.cli import main; main()' sandbox up"
    return ("sh", "-c", f"{up} && exec {PYTHON} scripts/record_slurm_output.py")


def main() -> None:
    """Prepare the tree, run in it, and leave nothing behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", choices=sorted(DEBIANS), default="trixie")
    parser.add_argument("--record", action="store_true", help="record what Slurm prints, in place of the tests")
    parser.add_argument("command", nargs="*", help="run this in place of the tests")
    asked = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit("slurm-versions: a tree of another Debian is made and entered by root, on Debian.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    tree = Tree(DEBIANS[asked.suite])
    with tree.held():
        say(f"running with Slurm {tree.debian.slurm} of Debian {tree.debian.suite}")
        command: Sequence[str] = asked.command or (recording() if asked.record else tests())
        status = tree.enter(*command)
    say(f"ended with status {status}")
    raise SystemExit(status)


if __name__ == "__main__":
    main()
