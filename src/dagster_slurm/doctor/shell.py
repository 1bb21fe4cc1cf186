"""The login shell, and the programs a run needs on the login node."""

from __future__ import annotations

import re

from dagster_slurm.doctor.finding import Finding, fine, wrong
from dagster_slurm.doctor.world import Facts, World

STEP = "shell"
_OLDEST_BASH = 4


def check_shell(world: World) -> Finding:
    """What runs our commands."""
    world.log_in()
    connection = world.connection
    return judge_shell(world.gather("shell.sh"), tty=connection is not None and connection.has_tty)


def judge_shell(facts: Facts, *, tty: bool) -> Finding:
    """Whether a run finds what it needs; noise is only told, for answers are framed."""
    found = _describe(facts, tty=tty)
    missing = facts.get("missing", [])
    if missing:
        return wrong(
            STEP,
            f"Not on the PATH of the login node: {', '.join(missing)}",
            "Extend PATH for shells that are not interactive, or use post_login_command; bash, GNU coreutils, tar and "
            "util-linux are needed.",
            found,
        )
    version = re.match(r"\d+", facts["bash"][0])
    if version and int(version.group()) < _OLDEST_BASH:
        return wrong(STEP, f"bash is {facts['bash'][0]}, and 4 is needed", "Put a newer bash on the PATH.", found)
    return fine(STEP, found)


def _describe(facts: Facts, *, tty: bool) -> str:
    noise = int(facts["noise"][0])
    said = f"prints {noise} bytes by itself, which is harmless here" if noise else "quiet"
    return f"{facts['shell'][0]}, {'with' if tty else 'without'} a TTY, {said}; bash {facts['bash'][0]}"
