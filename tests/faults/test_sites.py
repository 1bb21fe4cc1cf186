"""Sites where something is amiss, or says what nobody asked: no sacct, a full disk, a clock that is off, banners."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm.sandbox import Sandbox

from ..support.waiting import at_the_same_time, eventually
from .conftest import Record
from .figures import Figures
from .login import login_node_with
from .project.plan import Plan
from .world import World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
JOB = "plain_in_process"
SLURM = ("sbatch", "squeue", "sacct", "scontrol", "scancel")
FULL_SECONDS = 6.0
# Answers one call of three.
BUSY_SQUEUE = """#!/bin/sh
count=$(($(cat "$HOME/squeue-calls" 2>/dev/null || echo 0) + 1))
echo "$count" >"$HOME/squeue-calls"
[ $((count % 3)) != 0 ] || exec /usr/bin/squeue "$@"
echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2
exit 1
"""
REFUSING_SACCT = """#!/bin/sh
echo 'sacct: not on this login node; ask the help desk' >&2
exit 1
"""
# What a job_submit plugin does (slurm.conf(5), JobSubmitPlugins).
RENAMING_SBATCH = """#!/bin/sh
for word; do
    shift
    case $word in --job-name=*) word=--job-name=site-$$ ;; esac
    set -- "$@" "$word"
done
exec /usr/bin/sbatch "$@"
"""
# What a site's wrapper, or a plugin that prints, does.
WITH_BANNER = """#!/bin/sh
echo '*** Maintenance on Monday from 4711 to 4712 ***'
exec /usr/bin/{} "$@"
"""
REASON = [
    "Jobs here have an account:",
    "  --account=PROJECT, of those that `sacctmgr show assoc` lists",
    "Ask the desk.",
]
# As job_submit plugins refuse (job_submit/lua: log_user), until its flag is gone.
REFUSING_SBATCH = f"""#!/bin/sh
[ -e "$HOME/no-more-refusals" ] && exec /usr/bin/sbatch "$@"
cat >&2 <<'END'
{chr(10).join(f"sbatch: error: {line}" for line in REASON)}
sbatch: error: Batch job submission failed: Unspecified error
END
exit 1
"""
NOISE = """#!/bin/sh
printf '\\377\\376\\000\\r\\n|||\\033[2J../../evil 17\\n17|17|RUNNING\\n' | tee /dev/stderr
"""
# Of files that `data_list` asks for.
NAMES_ELSEWHERE = """#!/bin/sh
case $* in
*'%s %Y %n'*) printf '4 1 ./../../../evil\\0' ;;
*) exec /usr/bin/stat "$@" ;;
esac
"""
OTHER_DATE = """#!/bin/sh
exec faketime -f {} /usr/bin/date "$@"
"""


Trials = Mapping[str, Callable[[Sandbox, Path, Plan], Figures]]


def test_peculiar_sites(sandbox: Sandbox, tmp_path: Path, record: Record) -> None:
    """All of them at the same time: each has a login node or a directory of its own."""
    try_all(
        {
            "squeue-times-out": with_a_busy_controller,
            "disk-full-running": full_while_running,
            "login-clock-ahead": lambda *site: with_programs({"date": OTHER_DATE.format("+1h")}, *site),
            "banner": lambda *site: with_programs({name: WITH_BANNER.format(name) for name in SLURM}, *site),
            "plugin-refuses": with_a_plugin_that_refuses,
        },
        sandbox,
        tmp_path,
        record,
    )


@pytest.mark.all_faults
def test_more_peculiar_sites(sandbox: Sandbox, tmp_path: Path, record: Record) -> None:
    """The other side of those above, and what costs most."""
    try_all(
        {
            "sacct-absent": without_sacct,
            "sacct-refused": lambda *site: with_programs({"sacct": REFUSING_SACCT}, *site),
            "disk-full-submission": full_at_submission,
            "clock-behind": lambda *site: with_clock("-10m", *site),
            "clock-ahead": lambda *site: with_clock("+10m", *site),
            "renamed": lambda *site: with_programs({"sbatch": RENAMING_SBATCH}, *site),
            "login-clock-behind": lambda *site: with_programs({"date": OTHER_DATE.format("-1h")}, *site),
            "quiet-ssh": with_a_quiet_ssh,
        },
        sandbox,
        tmp_path,
        record,
    )


def try_all(sites: Trials, sandbox: Sandbox, directory: Path, record: Record) -> None:
    expected: Mapping[str, Mapping[str, Any]] = {"quiet-ssh": {"executed": 0, "ends": ("FAILURE",), "lines": False}}

    def trial(row: str) -> None:
        figures = sites[row](sandbox, directory / row, Plan(row, line_bytes=500))
        record(row, [figures], **expected.get(row, {}))

    at_the_same_time(trial, sites, most=3)


@pytest.mark.all_faults
def test_hostile_sites(sandbox: Sandbox, tmp_path: Path, record: Record) -> None:
    """The run fails, and what is the matter is in its error."""
    sites: Mapping[str, tuple[Callable[[Sandbox, Path, Plan], Figures], int]] = {
        "hostile-login-node": (with_noise, 0),
        "hostile-names": (with_names_that_lead_elsewhere, 1),
        "foreign-base": (with_somebody_else_s_directory, 0),
    }

    def trial(row: str) -> None:
        site, executed = sites[row]
        figures = site(sandbox, tmp_path / row, Plan(row, lines=10))
        record(row, [figures], executed=executed, ends=("FAILURE",), lines=False)

    at_the_same_time(trial, sites)


def run(world: World, plan: Plan, *, prefix: tuple[str, ...] = ()) -> Figures:
    before = len(world.runs_of(plan))
    try:
        world.execute(JOB, plan, prefix=prefix)
        eventually(lambda: len(world.runs_of(plan)) > before, f"a run of {plan.name}")
        world.wait_for_the_end(plan)
        return world.figures(plan)
    finally:
        world.close()


def without_sacct(sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    with login_node_with(sandbox, directory / "login", without=("sacct",)) as node:
        return run(World(sandbox, directory / "world", variables=node.env()), plan)


def with_programs(programs: Mapping[str, str], sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    with login_node_with(sandbox, directory / "login", programs=programs) as node:
        return run(World(sandbox, directory / "world", variables=node.env()), plan)


def with_a_busy_controller(sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    with login_node_with(sandbox, directory / "login", programs={"squeue": BUSY_SQUEUE}) as node:
        figures = run(World(sandbox, directory / "world", variables=node.env()), plan)
        assert int((sandbox.home / "squeue-calls").read_text()) > 2
        return figures


def with_a_plugin_that_refuses(sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    """The run says what the plugin says, all of it."""
    with login_node_with(sandbox, directory / "login", programs={"sbatch": REFUSING_SBATCH}) as node:
        world = World(sandbox, directory / "world", variables=node.env())
        world.execute(JOB, plan)
        world.wait_for_the_end(plan)
        (failed,) = world.runs_of(plan)
        said = world.failure(failed)
        assert [line for line in REASON if line.strip() not in said] == [], said
        assert sandbox.run(["touch", "no-more-refusals"]).returncode == 0
        return run(world, plan)


def with_a_quiet_ssh(sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    """A refused key is one, and no outage that would be waited for."""
    directory.mkdir()
    key = directory / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    quiet = {"SLURM_EDGE_NODE_KEY_PATH": str(key), "SLURM_EDGE_NODE_OPTS_EXTRA": "-o LogLevel=QUIET"}
    with sandbox.login_node() as node:
        world = World(sandbox, directory / "world", variables={**node.env(), **quiet})
        figures = run(world, plan)
        assert "AuthenticationError" in world.failure(world.run_of(plan))
        assert node.logins() == 0
        return figures


def with_noise(sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    figures, said = failing(sandbox, directory, plan, dict.fromkeys(SLURM, NOISE))
    assert "SlurmOutputError" in said
    return figures


def with_names_that_lead_elsewhere(sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    plan = dataclasses.replace(plan, outputs=("*",))
    figures, said = failing(sandbox, directory, plan, {"stat": NAMES_ELSEWHERE})
    assert "UnreadableAnswerError" in said
    assert "evil" in said
    return figures


def failing(sandbox: Sandbox, directory: Path, plan: Plan, programs: Mapping[str, str]) -> tuple[Figures, str]:
    """A run that fails and writes nothing of that name, and why it has failed."""
    with login_node_with(sandbox, directory / "login", programs=programs) as node:
        world = World(sandbox, directory / "world", variables=node.env())
        figures = run(world, plan)
        assert not [path for path in directory.rglob("*") if path.name == "evil"]
        return figures, world.failure(world.run_of(plan))


def with_somebody_else_s_directory(sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    base = sandbox.home / plan.name
    assert sandbox.run(["mkdir", str(base)]).returncode == 0
    (base / "runs").mkdir()
    shutil.chown(base / "runs", sandbox.config.users[0])
    world = World(sandbox, directory / "world", remote_base=str(base))
    figures = run(world, plan)
    assert "'runs' belongs to somebody else" in world.failure(world.run_of(plan))
    assert [path.name for path in base.rglob("*")] == ["runs"]
    return figures


def with_clock(offset: str, sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    prefix = ("faketime", "-m", "--exclude-monotonic", "-f", offset)
    return run(World(sandbox, directory / "world", variables={"FAULTS_CLOCK": offset}), plan, prefix=prefix)


def full_at_submission(sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    with sandbox.small_filesystem(2) as path:
        world = World(sandbox, directory / "world", remote_base=str(path))
        ballast = fill(path)
        world.execute(JOB, plan)
        world.wait_for_the_end(plan)
        (failed,) = world.runs_of(plan)
        assert "No space left on device" in world.failure(failed)
        ballast.unlink()
        return run(world, plan)


def full_while_running(sandbox: Sandbox, directory: Path, plan: Plan) -> Figures:
    with sandbox.small_filesystem(2) as path:
        world = World(sandbox, directory / "world", remote_base=str(path))
        world.execute(JOB, plan)
        # Dagster's own library, which opens the messages first, gives up at once where there is no space.
        eventually(
            lambda: any(b"line 1." in log.read_bytes() for log in path.rglob("stdout.*")), "lines of the payload"
        )
        ballast = fill(path)
        time.sleep(FULL_SECONDS)
        ballast.unlink()
        try:
            world.wait_for_the_end(plan)
            return world.figures(plan)
        finally:
            world.close()


def fill(path: Path) -> Path:
    """Write until there is no space."""
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 512):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    eventually(lambda: not has_space(path), "a full disk")
    return ballast


def has_space(path: Path) -> bool:
    return shutil.disk_usage(path).free > 0
