"""What a step says of partitions that have failed does not depend on the order in which they ended."""

from __future__ import annotations

import itertools

from dagster_slurm.errors import JobFailedError
from dagster_slurm.pipes.step import partitions_failure


def test_failed_partitions_are_named_in_order() -> None:
    failures = [
        (name, JobFailedError(f"{name} ended with 3", state="FAILED", hint=f"Retry {name}."))
        for name in ("p007", "p003", "p013")
    ]
    for order in itertools.permutations(failures):
        told = partitions_failure(dict(order), total=20)
        first, second, third = str(told.description).splitlines()
        assert first == "3 of 20 partitions failed. p003: p003 ended with 3"
        assert second.startswith("Failed: p003, p007, p013. The others")
        assert third == "Partition p003: Retry p003."
        assert told.metadata["slurm_failed_partitions"].value == ["p003", "p007", "p013"]
        assert told.__cause__ is dict(failures)["p003"]
