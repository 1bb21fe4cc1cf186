"""Jobs of dagster-slurm 1.22 that may still run: they are not taken up, and no second one is submitted beside them."""

from __future__ import annotations

from collections.abc import Mapping

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.compat.refused import PAGE
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.pipes.step import Step

JOB_TAG = "dagster_slurm/job_id"
_ASSET_TAG = "dagster_slurm/asset_key"


def refuse_beside_job_of_1_22(cluster: SlurmCluster, step: Step, tags: Mapping[str, str]) -> None:
    """Refuse to submit for a run that goes on with one of 1.22 whose job has not ended.

    Args:
        cluster: Where the job would be.
        step: The step.
        tags: Those of the run, which a retry has from the run that it retries.

    Raises:
        InvalidRequestError: The job is in the queue, and has not ended.
        TransportError: The cluster cannot be asked.
        SlurmUnavailableError: The controller does not answer.
    """
    job_id = tags[JOB_TAG].strip()
    if not job_id.isdecimal() or not _is_of_step(step, tags.get(_ASSET_TAG)):
        return
    entry = cluster.queue([job_id]).get(job_id)
    if entry is None or entry.state.is_terminal:
        step.log.info(f"Slurm job {job_id} of dagster-slurm 1.22, which this run has in its tags, has ended")
        return
    raise InvalidRequestError(
        f"Slurm job {job_id} of dagster-slurm 1.22, which this run has in its tags, is {entry.state.value}: it is not "
        "taken up, and no second one is submitted beside it",
        hint=f"Wait for its end and retry again, or `scancel {job_id}` first; a run that is launched anew, and not as "
        f"a retry, has no such tag. See {PAGE}#the-afternoon.",
        host=cluster.host,
        job_id=job_id,
    )


def _is_of_step(step: Step, asset: str | None) -> bool:
    """Whether the job may be of the step: the tag names its asset, in whatever form, or none is named."""
    if not asset or not step.asset_keys:
        return True
    return any(asset in (key.to_user_string(), key.to_string(), key.to_python_identifier()) for key in step.asset_keys)
