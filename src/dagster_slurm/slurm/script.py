"""The one writer of batch scripts: `#SBATCH` lines in front of what bash runs. Pure."""

from __future__ import annotations

import re

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm.options import refuse_control_characters
from dagster_slurm.slurm.request import JobRequest

TASK = "{task}"
_PLAIN = re.compile(r"[A-Za-z0-9_./:,@=+%*\[\]-]+", re.ASCII)


def render_script(
    request: JobRequest,
    *,
    output_path: str,
    body: str,
    array: str | None = None,
) -> str:
    """Write a batch script: the interpreter, an #SBATCH line for each option in alphabetical order, the body.

    Args:
        request: What is asked for.
        output_path: Absolute path of the batch script's own stdout and stderr, taken literally.
        body: What bash runs.
        array: The value of `--array`; the last `TASK` in `output_path` is then the number of the task.

    Returns:
        The text of the script.

    Raises:
        InvalidRequestError: A path or a value that cannot stand in a directive.
    """
    files = {"open-mode": "append", "output": escape_filename(output_path)}
    if array is not None:
        # "%a": sbatch(1), section "filename pattern".
        files["output"] = "%a".join(files["output"].rsplit(TASK, 1))
    tasks: dict[str, str | bool] = {} if array is None else {"array": array}
    options = {**request.sbatch_options(), **tasks, **files}
    lines = [directive(name, value) for name, value in sorted(options.items())]
    return "\n".join(["#!/bin/bash", *lines, "", body.rstrip("\n"), ""])


def directive(name: str, value: str | bool) -> str:
    """One #SBATCH line.

    Raises:
        InvalidRequestError: The value holds a newline or NUL.
    """
    return f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={quote(name, str(value))}"


def quote(name: str, value: str) -> str:
    r"""A value as sbatch's directive parser reads it back: in double quotes, `\` and `"` escaped, if need be.

    Raises:
        InvalidRequestError: The value holds a newline or NUL.
    """
    refuse_control_characters(name, value)
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def escape_filename(path: str) -> str:
    r"""A path taken literally by sbatch: "%" doubled (sbatch(1), section "filename pattern").

    Raises:
        InvalidRequestError: The path is relative, or holds a newline, NUL or a backslash (which Slurm removes
            and which switches the replacement off).
    """
    refuse_control_characters("output", path)
    if not path.startswith("/") or "\\" in path:
        raise InvalidRequestError(
            f"not a path for a job's output: {path!r}", hint="Use an absolute path without backslashes."
        )
    return path.replace("%", "%%")
