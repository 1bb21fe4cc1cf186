"""What is said of a job that did not succeed. Pure."""

from __future__ import annotations

from dagster_slurm.errors import JobFailedError
from dagster_slurm.job.events import Ended

_SIGNAL_BASE = 128
_LARGEST_SIGNAL = 64


def job_failure(
    ended: Ended, *, job_id: str, host: str, stderr_tail: str, slurm_log_tail: str, kept_path: str
) -> JobFailedError:
    """The error for a job's end: last lines of stderr, state, exit code, node, and where the rest is kept."""
    exit_code, signal = _exit_of(ended)
    outcome = f"exit code {exit_code}" if exit_code is not None else "no exit code"
    if signal:
        outcome += f", signal {signal}"
    node = ended.node or (ended.record.node_list if ended.record else None)
    slurm_said = f"\nSlurm says:\n{_indent(slurm_log_tail)}" if slurm_log_tail else ""
    said = f"\nLast lines of stderr:\n{_indent(stderr_tail)}" if stderr_tail else "\nIt wrote nothing to stderr."
    return JobFailedError(
        f"Slurm job {job_id} did not succeed.{slurm_said}{said}\n"
        f"State {ended.state}, {outcome}, node {node or 'unknown'}; kept on {host}: {kept_path}",
        state=ended.state.value,
        exit_code=exit_code,
        signal=signal,
        node=node,
        kept_path=kept_path,
        stderr_tail=stderr_tail,
        host=host,
        job_id=job_id,
    )


def _exit_of(ended: Ended) -> tuple[int | None, int]:
    """Exit code and signal; the batch script passes a payload's signal on as 128 and its number, as shells do."""
    record = ended.record
    # The end line is exact: Slurm 22.05 shows a status of 139 as 11:0, as if the payload had exited with 11.
    code = ended.end_mark.exit_code if ended.end_mark else (record.exit_code if record else None)
    signal = (record.signal if record else None) or 0
    if signal > _LARGEST_SIGNAL:
        # Slurm's own mark of a job over its memory, 0:125, is no signal.
        signal = 0
    if not signal and code is not None and code > _SIGNAL_BASE:
        signal = code - _SIGNAL_BASE
    return code, signal


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
