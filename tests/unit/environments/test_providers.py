"""Commands for containers, and lines for modules: golden, since no container can be run where the tests are."""

from __future__ import annotations

from typing import Any

import pytest

from dagster_slurm.environments import (
    Activation,
    ClusterPython,
    Container,
    Deployed,
    Installed,
    Modules,
    Provider,
    add_to,
    with_modules,
)
from dagster_slurm.environments.recipe import Locked
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.launchers import Place, direct_plan
from dagster_slurm.launchers.payload import Payload

BASE = "/home/me/dagster_runs"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "apptainer exec --bind /home/me/dagster_runs:/home/me/dagster_runs /images/tides.sif"),
        (
            {"binds": {"/data": "/mnt/data"}, "gpus": True},
            "apptainer exec --bind /home/me/dagster_runs:/home/me/dagster_runs --bind /data:/mnt/data --nv "
            "/images/tides.sif",
        ),
        (
            {"runtime": "singularity"},
            "singularity exec --bind /home/me/dagster_runs:/home/me/dagster_runs /images/tides.sif",
        ),
        (
            {"runtime": "pyxis", "binds": {"/data": "/data"}},
            "srun --ntasks=1 --nodes=1 --container-image=/images/tides.sif "
            "--container-mounts=/home/me/dagster_runs:/home/me/dagster_runs,/data:/data",
        ),
        ({"runtime": "slurm"}, "srun --ntasks=1 --nodes=1 --container=/images/tides.sif"),
    ],
    ids=str,
)
def test_commands(options: dict[str, Any], expected: str) -> None:
    assert " ".join(Container("/images/tides.sif", **options).command(BASE)) == expected


@pytest.mark.parametrize("options", [{"binds": {"/data": "/data"}}, {"gpus": True}], ids=str)
def test_slurm_itself_takes_neither_binds_nor_gpus(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="neither binds nor gpus"):
        Container("/bundles/tides", runtime="slurm", **options).command(BASE)


def test_it_stands_around_the_payload() -> None:
    wrapper = Container("/images/tides.sif").command(BASE)
    plan = direct_plan(Payload("payload.py", "python", None), Place(Activation((), "python3", "", wrapper=wrapper)))
    assert plan.command == (*wrapper, "python3", "payload.py")


@pytest.mark.parametrize(
    ("lines", "calls"),
    [
        (("module load python/3.11",), True),
        (("ml gcc",), True),
        (("source /opt/env.sh",), False),
        (("echo 'module",), False),
    ],
)
def test_the_function_module_is_there_where_it_is_called(lines: tuple[str, ...], calls: bool) -> None:
    made = with_modules(lines)
    assert made[-len(lines) :] == lines
    assert (len(made) > len(lines)) is calls


class _Locked:
    title = "the group `gpu` of uv.lock"

    def __init__(self, locked: Locked | None) -> None:
        self.locked = lambda: locked


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        (Installed(_Locked(Locked(frozenset(), "uv add --group gpu"))), "`uv add --group gpu pyyaml` adds it."),  # type: ignore[arg-type]
        (Installed(_Locked(None)), "It ran in the group `gpu` of uv.lock, which does not have it."),  # type: ignore[arg-type]
        (Deployed("/envs/analysis"), "`/envs/analysis/bin/python -m pip install pyyaml` on the cluster adds it."),
        (Modules(("module load python",)), "It ran in module load python, which does not have it: load a module "),
        (
            Container("/images/tides.sif"),
            "It ran in the container /images/tides.sif, which does not have it: add pyyaml",
        ),
        (
            ClusterPython(),
            "It ran in the cluster's own python3, which does not have it: lock it in the project (`uv add ",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_adds_a_module_is_said_of_each_kind(provider: Provider, said: str) -> None:
    assert said in add_to(provider, "yaml.loader")


def test_what_adds_a_module_is_said_in_the_names_of_conda() -> None:
    locked = Locked(frozenset(), "pixi add", is_conda=True)
    assert "`pixi add pytorch` adds it." in add_to(Installed(_Locked(locked)), "torch")  # type: ignore[arg-type]


def test_a_packed_environment_has_its_interpreter_elsewhere() -> None:
    entered = Activation((), "/envs/packed/env/bin/python", "the environment /envs/packed", path="/envs/packed")
    said = add_to(Deployed("/envs/packed"), "sklearn.svm", entered)
    assert said == (
        "It ran in the environment /envs/packed, which does not have it: `/envs/packed/env/bin/python -m pip install "
        "scikit-learn` on the cluster adds it."
    )
