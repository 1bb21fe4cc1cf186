"""Values as people write them, and variables that are somebody else's: read right, or refused by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SlurmRunConfig
from dagster_slurm.errors import InvalidQuantityError, InvalidRequestError
from dagster_slurm.resources.call import work_of
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.work.spec import WorkSpec


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "payload.sh"
    path.write_text("true\n")
    yield path


def request_of(payload: Path, queue: SlurmQueueConfig | None = None, **arguments: Any) -> JobRequest:
    compute = ComputeResource(mode="slurm", slurm=SlurmResource(queue=queue))
    return work_of(compute, None, {"payload_path": str(payload), **arguments}).request


class TestTimes:
    @pytest.mark.parametrize("name", ["time_limit", "time-limit", "time", "time_min", "begin"])
    def test_a_number_in_the_launchpad_is_refused(self, payload: Path, name: str) -> None:
        """YAML reads 1:00:00 as 3600: it became 60 hours."""
        with pytest.raises(InvalidQuantityError, match="number 3600 in the launchpad") as caught:
            request_of(payload, config=SlurmRunConfig(extra_slurm_opts={name: 3600}))
        assert '"1:00:00"' in str(caught.value)

    def test_in_quotes_and_in_python_it_is_what_it_was(self, payload: Path) -> None:
        launchpad = request_of(payload, config=SlurmRunConfig(extra_slurm_opts={"time_limit": "1:00:00"}))
        assert launchpad.time_limit_seconds == 3600
        assert request_of(payload, extra_slurm_opts={"time_limit": 90}).time_limit_seconds == 5400


class TestGPUs:
    @pytest.mark.parametrize(
        ("asked", "count", "option"),
        [("a100:2", 2, "a100:2"), ("a100:1,v100:3", 4, "a100:1,v100:3"), ("2", 2, "2"), (3, 3, "3")],
    )
    def test_of_a_kind(self, asked: object, count: int, option: str) -> None:
        request = merge({"gpus_per_node": asked})
        assert (request.gpus_per_node, request.sbatch_options()["gpus-per-node"]) == (count, option)

    @pytest.mark.parametrize("asked", ["a100", "a100:", ":2", "a100:2;x", "-1", True])
    def test_of_another_form(self, asked: object) -> None:
        with pytest.raises(InvalidQuantityError, match="gpus_per_node"):
            merge({"gpus_per_node": asked})

    def test_a_range_of_nodes_is_refused_by_name(self) -> None:
        with pytest.raises(InvalidQuantityError, match="'nodes' cannot be '2-4'"):
            merge({"nodes": "2-4"})

    @pytest.mark.parametrize(
        ("queue", "options", "mem"),
        [
            ({}, {}, "4096M"),
            # Nobody asked for 4096M there.
            ({"gpus_per_node": 1}, {}, None),
            ({}, {"gpus_per_node": "a100:2"}, None),
            ({}, {"gres": "gpu:2"}, None),
            ({}, {"gpus": 2}, None),
            ({"extra_slurm_opts": {"gpus_per_task": 1}}, {}, None),
            # Somebody did.
            ({"gpus_per_node": 1, "mem": "4096M"}, {}, "4096M"),
            ({"gpus_per_node": 1}, {"mem": "8G"}, "8G"),
            ({}, {"gpus_per_node": 0}, "4096M"),
            ({}, {"gres": "lustre:1"}, "4096M"),
        ],
    )
    def test_memory_that_nobody_asked_for(
        self, payload: Path, queue: dict[str, Any], options: dict[str, object], mem: str | None
    ) -> None:
        request = request_of(payload, SlurmQueueConfig(**queue), extra_slurm_opts=options)
        expected = merge({"mem": mem}).mem_mib if mem else None
        assert request.mem_mib == expected


class TestOptionsOfASite:
    def test_they_are_asked_for_in_every_job_and_less_than_what_a_call_says(self, payload: Path) -> None:
        queue = SlurmQueueConfig(extra_slurm_opts={"licenses": "scratch", "constraint": "haswell"})
        request = request_of(payload, queue, extra_slurm_opts={"constraint": "skylake"})
        assert dict(request.options) == {"licenses": "scratch", "constraint": "skylake"}

    def test_the_doctor_asks_for_them_too(self) -> None:
        slurm = SlurmResource(queue=SlurmQueueConfig(extra_slurm_opts={"mem_per_gpu": "8G", "gpus": 1}))
        assert dict(merge(slurm.default_options()).options) == {"gpus": "1", "mem-per-gpu": "8G"}


class TestVariablesAndExtras:
    def test_numbers_and_paths_are_text(self, payload: Path) -> None:
        spec = WorkSpec.of(payload, extra_env={"A": 1, "B": 0.5, "C": Path("/x"), "D": "text"})
        assert spec.extra_env == {"A": "1", "B": "0.5", "C": "/x", "D": "text"}

    @pytest.mark.parametrize("value", [True, None, ["a"], b"x"])
    def test_what_has_no_text_is_refused_by_name(self, payload: Path, value: object) -> None:
        with pytest.raises(InvalidRequestError, match="'NAME' in extra_env"):
            WorkSpec.of(payload, extra_env={"NAME": value})

    @pytest.mark.parametrize("value", [{1, 2}, Path("/x"), b"x", object()])
    def test_an_extra_that_is_no_json_is_refused_by_name(self, payload: Path, value: object) -> None:
        with pytest.raises(InvalidRequestError, match="'odd' in extras"):
            WorkSpec.of(payload, extras={"fine": [1, None], "odd": value})


class TestInsideAnAllocation:
    """Of an outer job's variables some have the names of our settings."""

    VALUES: ClassVar = {
        "SLURM_MEM_PER_CPU": "1024",
        "SLURM_GPUS_PER_NODE": "1",
        "SLURM_MEM": "8G",
        "SLURM_PARTITION": "gpu",
    }

    def test_what_slurm_has_set_is_no_setting_and_is_named(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """SLURM_MEM_PER_CPU beat SLURM_MEM, and every payload asked for a GPU."""
        for name, value in {**self.VALUES, "SLURM_JOB_ID": "7"}.items():
            monkeypatch.setenv(name, value)
        with caplog.at_level(logging.WARNING):
            queue = SlurmResource.from_env_slurm(None).queue
        assert queue is not None
        assert (queue.mem_per_cpu, queue.gpus_per_node, queue.mem, queue.partition) == (None, 0, "8G", "gpu")
        assert caplog.messages == ["Inside Slurm job 7, its SLURM_GPUS_PER_NODE and SLURM_MEM_PER_CPU are no settings"]

    def test_outside_of_one_they_are(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        for name, value in self.VALUES.items():
            monkeypatch.setenv(name, value)
        queue = SlurmResource.from_env_slurm(None).queue
        assert queue is not None
        assert (queue.mem_per_cpu, queue.gpus_per_node) == ("1024", 1)
        assert caplog.messages == []
