"""The Python that payloads run with."""

from __future__ import annotations

import re

from dagster_slurm.doctor.finding import Finding, fine, warning, wrong
from dagster_slurm.doctor.world import World
from dagster_slurm.environments import CLUSTER_PYTHON, Activation, activate_deployed
from dagster_slurm.transport import CompletedCommand
from dagster_slurm.transport.shell import quote, shell_file

STEP = "environment"
_FACTS = re.compile(r"^dagster-slurm python (?P<python>\S+) pipes (?P<pipes>\S+)$", re.MULTILINE)
_ABSENT = "none"


def activation_of(world: World) -> Activation:
    """How the configured environment is entered.

    Raises:
        EnvironmentNotFoundError: There is none at that path.
    """
    path = world.asked.env_path
    if path is None:
        return CLUSTER_PYTHON
    return activate_deployed(path, world.cluster.environment_layout(path))


def probe_program() -> str:
    """The Python program that tells its version and that of dagster_pipes."""
    return shell_file("dagster_slurm.doctor.scripts", "python_facts.py")


def check_environment(world: World) -> Finding:
    """Whether the environment is there and can talk to Dagster."""
    world.log_in()
    activation = activation_of(world)
    answer = world.run("python.sh", ["\n".join(activation.setup), activation.python, probe_program()])
    return judge_environment(activation, answer, named=world.asked.env_path is not None)


def judge_environment(activation: Activation, answer: CompletedCommand, *, named: bool) -> Finding:
    """Whether Python runs there, and finds dagster_pipes."""
    facts = _FACTS.search(answer.text)
    where = f"{activation.description}, on the login node"
    judge = wrong if named else warning
    if facts is None:
        said = answer.reason.splitlines()[-1:]
        problem = f"Python does not run in {where}: {said[0]}"
        return judge(STEP, problem, _remedy(activation, "Repair it, or name another one with --env-path.", named=named))
    found = f"{where}: Python {facts['python']}"
    if facts["pipes"] == _ABSENT:
        problem = f"Python {facts['python']} of {where}, has no dagster_pipes: payloads cannot report to Dagster"
        install = f"Run `{quote(activation.python)} -m pip install dagster-pipes` there."
        return judge(STEP, problem, _remedy(activation, install, named=named))
    return fine(STEP, f"{found}, dagster_pipes {facts['pipes']}")


def _remedy(activation: Activation, remedy: str, *, named: bool) -> str:
    return remedy if named else "Name an environment on the cluster with --env-path (pre_deployed_env_path)."
