"""Marks and figures for tests that run Dagster in their own process."""

from __future__ import annotations

import dagster as dg

from dagster_slurm.sandbox import Sandbox

from .figures import Figures, lines_off


def marking(name: str) -> str:
    """The first lines of a payload that marks its start, with its job's id, in a file of the user's home."""
    return (
        "import os, pathlib\n"
        "marks = pathlib.Path.home() / 'faults' / 'marks'\n"
        "marks.mkdir(parents=True, exist_ok=True)\n"
        f"with (marks / {name!r}).open('a') as file:\n"
        "    file.write('start ' + os.environ['SLURM_JOB_ID'] + '\\n')\n"
    )


def figures_of(sandbox: Sandbox, name: str, result: dg.ExecuteInProcessResult, log: str, expected: str) -> Figures:
    """What a run of such a payload came to."""
    marks = (sandbox.home / "faults" / "marks" / name).read_text().splitlines()
    missing, doubled = lines_off(log, expected.splitlines())
    end = "SUCCESS" if result.success else "FAILURE"
    return Figures(len(marks), len(set(marks)), end, missing, doubled, trial=name)
