"""How resources and arguments are written in YAML: the schema, and what is made of what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.resolved.errors import ResolutionException
from pydantic import ValidationError

import dagster_slurm
from dagster_slurm import (
    ComputeResource,
    MPILauncher,
    RemotePath,
    SlurmResource,
    SlurmResourcesComponent,
    SlurmScriptComponent,
    TorchrunLauncher,
    UvEnvironment,
)
from dagster_slurm.components.arguments import RunModel, payload_at, with_paths
from dagster_slurm.components.written import KINDS, made, model_of
from dagster_slurm.errors import ConfigurationError, InvalidQuantityError
from dagster_slurm.resources.environments import Environment
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.settings import Arguments


def run_of(text: str, **scope: Any) -> Any:
    """The arguments of a component, of what its file says below `run`."""
    written = f"execution: {{path: payload.sh}}\nassets: [{{key: a}}]\nrun: {text}"
    return SlurmScriptComponent.resolve_from_yaml(written, scope=scope).run


def compute_of(text: str, **scope: Any) -> Any:
    """The resource, of what its file says below its key."""
    return SlurmResourcesComponent.resolve_from_yaml(f"resources: {{compute: {text}}}", scope=scope).resources[
        "compute"
    ]


def test_every_argument_of_a_call_can_be_written_and_no_other() -> None:
    # What is chosen in the launchpad comes from there.
    assert RunModel.model_fields.keys() == {*Arguments.__annotations__, "launcher", "max_parallel"} - {"config"}


def models(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema's own models, by their names."""
    return {schema["title"]: schema, **schema["$defs"]}


@pytest.mark.parametrize("component", [SlurmScriptComponent, SlurmResourcesComponent])
def test_every_field_of_ours_has_its_text_in_the_schema(component: type[Any]) -> None:
    found = models(component.model().model_json_schema())
    # Dagster's own are Dagster's, and ports have their names.
    others = ("AssetSpec", "AssetCheckSpec", "PartitionsDefinition", "RayPortConfig")
    ours = {name: each for name, each in found.items() if not any(each in name for each in others)}
    assert "ComputeResourceModel" in ours or "RunModel" in ours
    silent = {
        f"{name}.{field}"
        for name, each in ours.items()
        for field, info in each.get("properties", {}).items()
        if not info.get("description")
    }
    assert silent == set()


@pytest.mark.parametrize("base", KINDS)
def test_every_kind_of_a_base_class_has_a_word(base: type[Any]) -> None:
    public = {getattr(dagster_slurm, name) for name in dagster_slurm.__all__}
    kinds = {each for each in public if isinstance(each, type) and issubclass(each, base) and each is not base}
    assert set(KINDS[base].values()) == kinds


def test_a_resource_with_the_fields_of_its_fields() -> None:
    found = compute_of(
        "{mode: slurm, slurm: {ssh: {host: login.cluster, jump_host: {host: gate, port: {env: PORT}}, "
        'password: {env: SECRET}}, queue: {partition: "{{ part }}", time_limit: "1:00:00", cpus: 4, '
        "extra_slurm_opts: {nice: 100}}}, default_launcher: {type: mpi, mpi: pmix}, "
        "environment: {type: uv, groups: [gpu]}, retry_policy: {max_retries: 1}}",
        part="gpu",
    )
    assert isinstance(found, ComputeResource)
    assert found.slurm is not None
    assert found.slurm.ssh is not None
    assert found.slurm.queue is not None
    assert found.slurm.ssh.password == dg.EnvVar("SECRET")
    assert found.slurm.ssh.jump_host is not None
    assert type(found.slurm.ssh.jump_host.port) is type(dg.EnvVar.int("PORT"))
    assert (found.slurm.queue.partition, found.slurm.queue.extra_slurm_opts) == ("gpu", {"nice": 100})
    assert isinstance(found.default_launcher, MPILauncher)
    assert isinstance(found.environment, UvEnvironment)
    assert found.environment.groups == ["gpu"]


def test_a_resource_made_by_a_template() -> None:
    made_by_hand = ComputeResource(mode="local", debug_mode=True)
    assert compute_of("'{{ mine }}'", mine=made_by_hand) == made_by_hand


@pytest.mark.parametrize("mode", ["local", "slurm"])
def test_the_cluster_of_the_variables(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mode local none is needed."""
    monkeypatch.delenv("SLURM_EDGE_NODE_HOST", raising=False)
    if mode == "slurm":
        monkeypatch.setenv("SLURM_EDGE_NODE_HOST", "login.cluster")
    found = compute_of("{mode: \"{{ 'slurm' if env.SLURM_EDGE_NODE_HOST else 'local' }}\", slurm: from_env}")
    assert found.mode == mode
    assert (found.slurm is not None) == (mode == "slurm")
    assert found.slurm is None or isinstance(found.slurm, SlurmResource)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{mode: local, debugmode: true}", "debugmode"),
        ("{}", "mode"),
        ("{mode: elsewhere}", "'local', 'slurm', 'slurm-session' or 'slurm-hetjob'"),
        ("{mode: local, default_launcher: {type: mpirun}}", "'mpi'"),
        ("{mode: local, slurm: {queue: {time_limit: 1:00:00}}}", "3600"),
    ],
)
def test_what_is_wrong_is_refused_and_named(text: str, said: str) -> None:
    with pytest.raises((dg.DagsterError, ValidationError, ResolutionException)) as caught:
        compute_of(text)
    assert said in str(caught.value)


def test_a_kind_that_a_template_has_wrong() -> None:
    with pytest.raises(ConfigurationError, match="There is no ComputeLauncher of the type 'mpirun'") as caught:
        made(ComputeLauncher, {"type": "mpirun"})
    assert ", ".join(KINDS[ComputeLauncher]) in str(caught.value)


def test_arguments() -> None:
    found = run_of(
        "{launcher: {type: torchrun, nproc_per_node: 4}, extras: {epochs: '{{ epochs }}'}, max_parallel: 3, "
        "retry_policy: {max_retries: 1, memory_factor: 3}, slurm_metrics: [slurm_job_id], "
        "metrics_collector: json.dumps, extra_slurm_opts: {time_limit: '1:00:00', exclusive: true, constraint: null}}",
        epochs=7,
    )
    assert isinstance(found["launcher"], TorchrunLauncher)
    assert found["launcher"].nproc_per_node == 4
    assert found["extras"] == {"epochs": 7}
    assert found["max_parallel"] == 3
    assert found["retry_policy"].memory_factor == 3
    assert found["metrics_collector"] is json.dumps
    assert found["extra_slurm_opts"] == {"time_limit": "1:00:00", "exclusive": True, "constraint": None}
    assert "extra_env" not in found


def test_a_text_stays_one() -> None:
    """Dagster itself makes numbers of what looks like one."""
    found = run_of("{extra_slurm_opts: {time_limit: '30'}, extra_env: {OMP_NUM_THREADS: '4'}, name: '1'}")
    assert found == {"extra_slurm_opts": {"time_limit": "30"}, "extra_env": {"OMP_NUM_THREADS": "4"}, "name": "1"}


def test_a_launcher_of_a_users_own() -> None:
    class Mine(dagster_slurm.BashLauncher):
        """One that has no word."""

    assert isinstance(run_of("{launcher: '{{ mine }}'}", mine=Mine())["launcher"], Mine)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("{extra_slurm_opts: {time_limit: 1:00:00}}", InvalidQuantityError, "3600 in the component's file"),
        ("{metrics_collector: nowhere.at_all}", ConfigurationError, "'nowhere.at_all' cannot be imported"),
        ("{metrics_collector: json}", ConfigurationError, "package.module.function"),
    ],
)
def test_arguments_that_are_refused(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(ResolutionException) as caught:
        run_of(text)
    assert error.__name__ in str(caught.value)
    assert said in str(caught.value)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_slurm_opt"):
        run_of("{extra_slurm_opt: {nice: 1}}")


def test_paths_are_those_beside_the_file() -> None:
    written = {
        "extra_files": ["helpers.py", "/opt/tables"],
        "inputs": {"a.csv": "data/a.csv", "b": {"remote": "$SCRATCH/b"}},
        "outputs": ["*.parquet"],
        "extras": {"path": "data"},
    }
    assert with_paths(written, Path("/project/defs/model")) == {
        "extra_files": ["/project/defs/model/helpers.py", "/opt/tables"],
        "inputs": {"a.csv": "/project/defs/model/data/a.csv", "b": RemotePath("$SCRATCH/b")},
        "outputs": ["*.parquet"],
        "extras": {"path": "data"},
    }


def test_the_payload_is_a_file_beside_it_or_what_python_finds(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    assert payload_at("train.py", tmp_path) == str(tmp_path / "train.py")
    assert payload_at("../train.py", tmp_path / "defs") == str(tmp_path / "defs" / "../train.py")
    assert payload_at("/opt/train.py", tmp_path) == "/opt/train.py"
    assert payload_at("-m package.train", tmp_path) == "-m package.train"
    assert payload_at("package.train:main", tmp_path) == "package.train:main"
    assert payload_at("missing.py", tmp_path) == str(tmp_path / "missing.py")


def test_a_schema_that_leads_back_to_itself() -> None:
    schema = model_of(dagster_slurm.SSHConnectionResource).model_json_schema()
    assert "SSHConnectionResourceModel" in json.dumps(schema["$defs"]["SSHConnectionResourceModel"]["properties"])
    assert Environment in KINDS
