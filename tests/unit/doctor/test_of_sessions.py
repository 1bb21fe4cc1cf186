"""What the doctor says of sessions, by what a job has printed, and without one."""

from __future__ import annotations

import pytest

from dagster_slurm.doctor.sessions import judge_sessions, judge_version

FINE = {"nodes": "1", "lock": "yes", "status": "0", "said": "begun"}


def printed(**changes: str | None) -> str:
    facts = {name: value for name, value in {**FINE, **changes}.items() if value is not None}
    return "\n".join(["nonce", *(f"dagster-slurm session {name} {value}" for name, value in facts.items()), "python 3"])


@pytest.mark.parametrize(
    ("output", "status", "said"),
    [
        (printed(), "ok", "a step on one CPU began"),
        (printed(status="1", said="srun: error: Unable to create step"), "warning", "status 1 and said: srun: error"),
        (printed(status="127", said=""), "warning", "srun ended with status 127"),
        # A plugin has it end so.
        (printed(said="welcome"), "warning", "srun ended with status 0 and said: welcome"),
        (printed(nodes="0"), "warning", "names no nodes"),
        (printed(lock=None), "warning", "it is no lock"),
        ("nonce\n", "skipped", "nothing that tells it"),
    ],
)
def test_by_what_a_job_has_printed(output: str, status: str, said: str) -> None:
    finding = judge_sessions(output)
    assert finding.status == status
    assert said in finding.problem + finding.found


@pytest.mark.parametrize(("version", "status"), [((22, 5), "ok"), ((20, 11), "ok"), ((20, 2), "warning"), (None, "ok")])
def test_by_the_release_alone(version: tuple[int, int] | None, status: str) -> None:
    assert judge_version(version).status == status
