"""The batch scripts of a heterogeneous job: the leader's, which Slurm is given, and one for each component. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from dagster_slurm.job.batch_script import batch_script, signals_of
from dagster_slurm.launchers import Hook
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.hetjob import render_hetjob
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.transport import TreeEntry
from dagster_slurm.transport.shell import quote, shell_file

OnFailure = Literal["wait", "cancel"]


def leader_hook() -> Hook:
    """What stands in a component's script besides its launcher's: its sizes, and its ear for the leader."""
    return Hook("leader", shell_file("dagster_slurm.job", "component.sh"))


def het_scripts(
    requests: Mapping[str, JobRequest], launches: Sequence[str], *, directory: RunDirectory, on_failure: OnFailure
) -> tuple[str, list[TreeEntry]]:
    """What sbatch is given, and what lies beside it. Of one component Slurm makes a job as any other.

    Args:
        requests: What each component asks for, by its name.
        launches: The function `launch` of each, with `leader_hook`.
        directory: Where the launch lies.
        on_failure: What becomes of the others when one fails.
    """
    asked = list(requests.values())
    signal = asked[0].signal_before_timeout
    scripts = [
        batch_script(
            replace(request, signal_before_timeout=signal),
            directory=directory.of_element(number),
            launch=launch,
            component=f"component={number} components={len(asked)}",
        )
        for number, (request, launch) in enumerate(zip(asked, launches, strict=True))
    ]
    if len(asked) == 1:
        return scripts[0], []
    body = "\n".join(
        (
            f"run_directory={quote(directory.path)}",
            f"forwarded_signals={quote(' '.join(signals_of(asked[0])))}",
            f"names=({' '.join(map(quote, requests))})",
            f"on_failure={on_failure}",
            shell_file("dagster_slurm.launchers", "pause.sh"),
            shell_file("dagster_slurm.job", "hetjob.sh"),
        )
    )
    steps = shell_file("dagster_slurm.job", "part_srun.sh").encode()
    beside = [
        entry
        for number, script in enumerate(scripts)
        for entry in (
            TreeEntry(f"elements/{number}/component.sh", script.encode(), 0o700),
            TreeEntry(f"elements/{number}/bin/srun", steps, 0o700),
        )
    ]
    return render_hetjob(asked, output_path=directory.slurm_log, body=body), beside
