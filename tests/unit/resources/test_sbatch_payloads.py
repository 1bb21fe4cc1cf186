"""Batch scripts as payloads: their `#SBATCH` lines are a layer of options, between the asset and the resource."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SlurmRunConfig
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.resources.call import work_of
from dagster_slurm.work.spec import CALL, LAUNCHPAD, METADATA, RESOURCE, SCRIPT, WorkSpec

TEXT = "#!/bin/bash\n#SBATCH -N 2 -t 10 -c 3\n#SBATCH --nice=7 --mem=1G -o out.log\n\nhostname\n#SBATCH -N 9\n"


def spec_of(payload: Path, step: Any = None, mode: str = "slurm", **arguments: Any) -> WorkSpec:
    slurm = SlurmResource(queue=SlurmQueueConfig(num_nodes=1, cpus=1, time_limit="1:00:00", qos="normal"))
    resource = ComputeResource(mode=mode, slurm=slurm, pre_deployed_env_path="/env")
    return work_of(resource, step, {"payload_path": payload, **arguments})


def script(directory: Path, text: str = TEXT, name: str = "job.sh") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_each_layer_has_its_place(tmp_path: Path) -> None:
    logged: list[str] = []
    step: Any = SimpleNamespace(
        asset_metadata={"asset": {"slurm": {"cpus_per_task": 4, "nice": 8, "account": "a"}}},
        log=SimpleNamespace(warning=logged.append),
    )
    config, call = SlurmRunConfig(extra_slurm_opts={"nice": 9, "account": "b"}), {"account": "c"}
    spec = spec_of(script(tmp_path), step, config=config, extra_slurm_opts=call)
    sources = {name: (value, spec.option_sources[name]) for name, value in spec.request.sbatch_options().items()}
    assert sources == {
        "qos": ("normal", RESOURCE),
        "nodes": ("2", SCRIPT),
        "time": ("00:10:00", SCRIPT),
        "mem": ("1024M", SCRIPT),
        "cpus-per-task": ("4", METADATA),
        "nice": ("9", LAUNCHPAD),
        "account": ("c", CALL),
    }
    assert (
        logged
        == [spec.note]
        == ["Not applied of the #SBATCH lines of job.sh, since dagster-slurm sets it: --output=out.log"]
    )


@pytest.mark.parametrize("mode", ["local", "slurm"])
def test_what_cannot_be_had_is_refused_everywhere(tmp_path: Path, mode: str) -> None:
    array = script(tmp_path, "#!/bin/sh\n#SBATCH --array=1-3\ntrue\n")
    with pytest.raises(InvalidRequestError, match=r"job\.sh, line 2: --array=1-3 cannot be had"):
        spec_of(array, mode=mode)


@pytest.mark.parametrize(
    ("name", "text", "nodes"),
    [
        ("train.py", "#!/usr/bin/env python3\n#SBATCH --nodes=3\nimport this\n", 3),
        ("train", "#!/usr/bin/env python3\n#SBATCH --nodes=3\nimport this\n", 3),
        ("first.sh", "#SBATCH --nodes=3\ntrue\n", 3),
        ("late.py", "import os\n#SBATCH --nodes=3\n", 1),
        ("none.sh", "true\n", 1),
    ],
)
def test_any_script_may_have_them(tmp_path: Path, name: str, text: str, nodes: int) -> None:
    assert spec_of(script(tmp_path, text, name)).request.nodes == nodes


def test_a_directory_has_none(tmp_path: Path) -> None:
    script(tmp_path, "#SBATCH --nodes=3\n", "__main__.py")
    spec = spec_of(tmp_path)
    assert (spec.request.nodes, spec.note) == (1, "")


def test_memory_of_the_script_stands_in_for_what_is_built_in(tmp_path: Path) -> None:
    per_cpu = script(tmp_path, "#!/bin/sh\n#SBATCH --mem-per-cpu=1G\ntrue\n")
    assert spec_of(per_cpu).request.mem_mib is None
    assert spec_of(per_cpu).request.mem_per_cpu_mib == 1024
