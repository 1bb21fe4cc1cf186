"""Every public resource can be constructed, with each of its fields in each form, and put into Definitions.

The classes and their fields are read from `dagster_slurm.__all__`: a new one is in here by itself.
"""

from __future__ import annotations

import enum
import functools
import inspect
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dagster as dg
import pytest
from pydantic import ValidationError

import dagster_slurm
from dagster_slurm import BashLauncher, SlurmResource, SlurmRetryPolicy
from dagster_slurm.errors import ConfigurationError

CLASSES: dict[str, type[Any]] = {
    name: found
    for name in dagster_slurm.__all__
    if inspect.isclass(found := getattr(dagster_slurm, name)) and issubclass(found, dg.Config)
}
# What a field is given that takes not every text: forms that its documentation shows.
FORMS: dict[str, list[Any]] = {
    "time_limit": ["01:00:00", "2-00:00:00"],
    "mem": ["4G", None],
    "mem_per_cpu": ["512M"],
    "signal_before_timeout": ["B:TERM@60"],
    "platform": ["linux-64", "linux-aarch64"],
    "pack_platform": ["linux-64"],
    "host": ["login.example.org"],
    "jump_host": [dagster_slurm.SSHConnectionResource(host="jump.example.org")],
    "pack_cmd": [["pixi-pack", "-o", "{output}"], "pixi-pack -o {output}"],
    "remote_base": ["/scratch/me/runs", "~/runs"],
    "job_url": ["https://portal.example.org/jobs/{job_id}"],
    "pre_deployed_env_path": ["/shared/envs/analysis"],
    "remote_payload_path": ["/shared/payload.py"],
    "default_launcher": [BashLauncher()],
    "nproc_per_node": ["auto", 2],
    "retry_policy": [SlurmRetryPolicy()],
    "environment": [dagster_slurm.UvEnvironment(), dagster_slurm.PixiEnvironment()],
    "mode": ["local", "slurm", "slurm-session", "slurm-hetjob"],
    "allocation_scope": ["asset", "run", dagster_slurm.SlurmAllocationScope.RUN],
    "cleanup_policy": ["after_run"],
    "extra_sbatch_directives": [["--licenses=solver"]],
    "session": [dagster_slurm.SlurmSessionResource()],
    "run_allocation": [dagster_slurm.SlurmRunAllocationConfig()],
    "reattach": ["retry", "asset", "never"],
    "host_key_checking": ["strict", "accept-new", "off", "inherit"],
    "mpi": ["auto", "pmix", "pmi2", "none", "mpirun"],
    "port_strategy": ["random", "hash_jobid", "fixed"],
}
# `environment` of a pixi project is a name; a cluster in a session has to say how much memory it holds.
OF_CLASS: dict[tuple[str, str], list[Any]] = {
    ("PixiEnvironment", "environment"): ["analysis"],
    ("SessionCluster", "mem"): ["4G"],
}
TEXT, NUMBER = "DAGSTER_SLURM_TEST_TEXT", "DAGSTER_SLURM_TEST_NUMBER"
SIMPLE: dict[Any, tuple[Any, ...]] = {
    type(None): (None,),
    bool: (True, False),
    int: (3, dg.EnvVar.int(NUMBER)),
    float: (1.5, 2),
    str: ("text", dg.EnvVar(TEXT)),
    Any: ("text",),
}
ABSTRACT = {"ComputeLauncher", "Environment"}


def forms(class_name: str, field: str, annotation: Any) -> list[Any]:
    """What a field may be given."""
    given = OF_CLASS.get((class_name, field)) or FORMS.get(field)
    return given if given is not None else list(_by_type(annotation))


def _by_type(annotation: Any) -> Iterator[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for each in arguments:
            yield from _by_type(each)
    elif origin is Annotated:
        yield from _by_type(arguments[0])
    elif origin is Literal:
        yield from arguments
    elif origin is list:
        yield [next(_by_type(arguments[0]))]
    elif origin is dict:
        yield {"name": next(_by_type(arguments[1]))}
    elif inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        yield from annotation
    elif inspect.isclass(annotation) and issubclass(annotation, dg.Config):
        yield annotation(**required(annotation))
    else:
        assert annotation in SIMPLE, f"no value is known for {annotation}: add one to FORMS"
        yield from SIMPLE[annotation]


def required(found: type[Any]) -> dict[str, Any]:
    """The fields that have to be given."""
    fields = found.model_fields.items()
    return {name: forms(found.__name__, name, field.annotation)[0] for name, field in fields if field.is_required()}


CASES = [
    pytest.param(name, field, value, id=f"{name}-{field}-{number}")
    for name, found in CLASSES.items()
    for field, info in found.model_fields.items()
    for number, value in enumerate(forms(name, field, info.annotation))
]


@functools.cache
def instance() -> dg.DagsterInstance:
    """In memory, and nothing is written to it: to make one takes longer than all else here."""
    return dg.DagsterInstance.ephemeral()


def put_into_definitions(made: Any) -> Any:
    """As a user does it; what the resource is in a run, where its variables are known."""
    if not isinstance(made, (dg.ConfigurableResource, dg.ConfigurableIOManager)):
        dg.RunConfig(ops={"measured": made}).to_config_dict()
        return made

    @dg.asset(required_resource_keys={"it"})
    def measured() -> None: ...

    dg.Definitions.validate_loadable(dg.Definitions(assets=[measured], resources={"it": made}))
    with dg.build_resources({"it": made}, instance=instance()) as resources:
        return resources.it


def test_there_are_such_classes() -> None:
    assert {"ComputeResource", "SlurmResource", "SSHConnectionResource", "PixiEnvironment"} <= CLASSES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_with_what_is_required(name: str) -> None:
    if name not in ABSTRACT:
        put_into_definitions(CLASSES[name](**required(CLASSES[name])))


@pytest.mark.parametrize(("name", "field", "value"), CASES)
def test_with_each_field(name: str, field: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEXT, "text")
    monkeypatch.setenv(NUMBER, "3")
    found = CLASSES[name]
    made = put_into_definitions(found(**{**required(found), field: value}))
    if isinstance(made, found) and issubclass(found, dg.ConfigurableResource):
        if isinstance(value, dg.EnvVar):
            assert getattr(made, field) == "text"
        elif isinstance(value, type(dg.EnvVar.int(NUMBER))):
            assert getattr(made, field) == 3


@pytest.mark.parametrize("field", ["cpus", "num_nodes"])
def test_a_variable_with_a_number_that_is_too_small(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused as the number itself is, when it is known."""
    monkeypatch.setenv(NUMBER, "0")
    with pytest.raises(dg.DagsterError) as caught:
        put_into_definitions(dagster_slurm.SlurmQueueConfig(**{field: dg.EnvVar.int(NUMBER)}))
    assert "greater than or equal to 1" in str(caught.value.__cause__)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        dagster_slurm.SlurmQueueConfig(**{field: 0})


@pytest.mark.parametrize(
    "job_url", ["portal.example.org/{job_id}", "https://portal.example.org/jobs", "file:///{job_id}"]
)
def test_an_address_without_a_job_is_refused(job_url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address of a job's page") as caught:
        SlurmResource(job_url=job_url).connect()
    assert repr(job_url) in str(caught.value)
