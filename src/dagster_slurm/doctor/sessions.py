"""Whether sessions can run: as the job of `--job` has tried it, or by what is known of the cluster."""

from __future__ import annotations

from dagster_slurm.doctor.finding import Finding, fine, skipped, warning
from dagster_slurm.doctor.world import World, read_facts

STEP = "sessions"
_HEAD = "dagster-slurm session "
# srun --exact: "steps ... use only the resources requested" (NEWS of 20.11).
_OLDEST = (20, 11)
_INSTEAD = "Until then take mode slurm, which makes each asset a job."


def check_sessions(world: World) -> Finding:
    """Whether a step of its own size begins within a job, which is what sessions are made of."""
    if world.job_output:
        return judge_sessions(world.job_output)
    if world.asked.job:
        return skipped(STEP, "the job has left nothing that tells it")
    return judge_version(world.cluster.facts().version)


def judge_version(version: tuple[int, int] | None) -> Finding:
    """By the release of Slurm alone."""
    if version is not None and version < _OLDEST:
        said = f"Slurm {version[0]}.{version[1]:02d} does not know `srun --exact`, by which a step gets its share"
        return warning(STEP, f"{said}: there are no sessions", f"Ask the site for an update. {_INSTEAD}")
    return fine(STEP, "Slurm knows `srun --exact`; with --job, a small job tries a step of a session")


def judge_sessions(output: str) -> Finding:
    """By what the job has printed.

    Args:
        output: Its stdout, with the lines of session_step.sh among others.
    """
    lines = [line.removeprefix(_HEAD) for line in output.splitlines() if line.startswith(_HEAD)]
    facts = read_facts("\n".join(lines))
    if "status" not in facts:
        return skipped(STEP, "the job has left nothing that tells it")
    said = facts.get("said", [""])[0].strip()
    if facts["status"] != ["0"] or "begun" not in said:
        problem = f"No step begins within a job: srun ended with status {facts['status'][0]}"
        return warning(
            STEP,
            f"{problem}{f' and said: {said}' if said else ''}",
            f"Ask the site what it needs of `srun`. {_INSTEAD}",
        )
    if facts.get("nodes", ["0"])[0].strip() == "0":
        problem = "`scontrol show hostnames` names no nodes within a job, and a session asks it for its own"
        return warning(STEP, problem, f"Ask the site for `scontrol` on compute nodes. {_INSTEAD}")
    if "lock" not in facts:
        problem = "A directory can be made twice in remote_base, as seen from a compute node: it is no lock"
        return warning(STEP, problem, f"Choose another remote_base (SLURM_REMOTE_BASE). {_INSTEAD}")
    return fine(STEP, "a step on one CPU began within the job, and a directory in remote_base is a lock for it")
