"""What is told of a run."""

from __future__ import annotations

from dataclasses import dataclass

from dagster_slurm.reconcile.decision import Verdict


@dataclass(frozen=True)
class ReconciledRun:
    """A run that was looked at.

    Args:
        run_id: The run.
        job_name: Its job.
        verdict: What was found.
        done: What was found and done, in a sentence for people.
        settled: Whether nothing is left to do for it here: it runs, it was finished, or somebody else finishes it.
        retry_run_id: The run that finishes it, if there is one.
    """

    run_id: str
    job_name: str
    verdict: Verdict
    done: str
    settled: bool = True
    retry_run_id: str | None = None

    def __str__(self) -> str:
        return f"{self.run_id} {self.job_name}: {self.done}"
