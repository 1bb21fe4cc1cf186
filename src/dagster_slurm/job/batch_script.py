"""The batch script of one launch: generated assignments in front of the file `batch.sh`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import JobRequest, render_script
from dagster_slurm.transport.shell import quote, shell_file

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEFAULT_SIGNALS = ("USR1", "USR2")


def batch_script(
    request: JobRequest,
    *,
    directory: RunDirectory,
    launch: str,
    array: str | None = None,
    component: str = "component=",
    is_linked: bool = False,
) -> str:
    """Everything `sbatch` is given.

    Args:
        request: What to ask Slurm for.
        directory: Where the launch lies.
        launch: The bash function `launch`, which becomes the payload.
        array: What `--array` is given; None for a single job.
        component: Which of how many components of a heterogeneous job it is, as assignments; by default none.
        is_linked: Whether the working directories of an array's tasks have come with the run directory.
    """
    body = "\n".join(
        (
            f"run_directory={quote(directory.path)}",
            f"forwarded_signals={quote(' '.join(signals_of(request)))}",
            component,
            f"linked={'yes' if is_linked else ''}",
            launch,
            shell_file("dagster_slurm.job", "figures.sh"),
            shell_file("dagster_slurm.job", "samples.sh"),
            shell_file("dagster_slurm.job", "batch.sh"),
        )
    )
    log = directory.slurm_log_of_each if array else directory.slurm_log
    return render_script(request, output_path=log, body=body, array=array)


def env_file(variables: Mapping[str, str]) -> str:
    """The file of the payload's variables. It may hold secrets: 0600, and never part of the script.

    Raises:
        InvalidRequestError: A name that no shell can export.
    """
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise InvalidRequestError(
                f"{name!r} is not the name of an environment variable",
                hint="Letters, digits and `_`, not beginning with a digit.",
            )
    return "".join(f"export {name}={quote(value)}\n" for name, value in variables.items())


def signals_of(request: JobRequest) -> tuple[str, ...]:
    """The signals that the batch script passes on to its payload, besides those that end it."""
    if request.signal_before_timeout is None:
        return _DEFAULT_SIGNALS
    signal = request.signal_before_timeout.removeprefix("B:").partition("@")[0]
    return tuple(dict.fromkeys((*_DEFAULT_SIGNALS, signal)))
