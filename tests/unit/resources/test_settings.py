"""Who says what about a call, and that every list of the same names agrees."""

import dataclasses
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import (
    BashLauncher,
    ComputeLauncher,
    ComputeResource,
    LocalPipesClient,
    SlurmPipesClient,
    SlurmRunConfig,
)
from dagster_slurm.errors import UnknownArgumentError
from dagster_slurm.resources.call import SETTINGS, Setting, first_said, option_layers, settled
from dagster_slurm.resources.settings import Arguments
from dagster_slurm.work.spec import (
    BUILT_IN,
    CALL,
    LAUNCHPAD,
    METADATA,
    RESOURCE,
    JobOptions,
    PayloadOptions,
    Said,
    WorkSpec,
)

ARGUMENTS = set(Arguments.__annotations__)
CALLED = {"payload_path", "launcher", *ARGUMENTS}


def sources_of(row: Setting) -> list[str]:
    says = {
        CALL: row.name in CALLED,
        LAUNCHPAD: row.name in SlurmRunConfig.model_fields,
        METADATA: row.metadata,
        RESOURCE: row.resource,
    }
    return [source for source, can in says.items() if can]


def say(row: Setting, sources: list[str], mode: str = "slurm") -> dict[str, Said]:
    asset = {"asset": {row.metadata: METADATA} if METADATA in sources else {}}
    step: Any = SimpleNamespace(asset_keys=("asset",), asset_metadata=asset)
    said: dict[str, Any] = {each.resource: None for each in SETTINGS if each.resource}
    if RESOURCE in sources and row.resource:
        said[row.resource] = RESOURCE
    resource: Any = SimpleNamespace(mode=mode, **said)
    arguments: dict[str, Any] = {"config": SimpleNamespace(**{row.name: LAUNCHPAD} if LAUNCHPAD in sources else {})}
    return settled(resource, step, arguments | ({row.name: CALL} if CALL in sources else {}))


@pytest.mark.parametrize("row", [row for row in SETTINGS if row.merged is first_said], ids=lambda row: row.name)
def test_the_first_that_says_something_wins(row: Setting) -> None:
    sources = sources_of(row)
    assert sources
    for index, source in enumerate(sources):
        assert say(row, sources[index:])[row.name] == Said(source, source)
    assert say(row, [])[row.name] == Said(row.built_in, BUILT_IN)


class Paced(ComputeLauncher):
    pace: int = 1
    limit: int = 2


@pytest.mark.parametrize(
    ("of_call", "of_resource", "expected", "source", "parts"),
    [
        (Paced(pace=3), Paced(pace=4, limit=5), Paced(pace=3, limit=5), CALL, {"limit": RESOURCE, "pace": CALL}),
        (None, Paced(limit=5), Paced(limit=5), RESOURCE, {"limit": RESOURCE}),
        (BashLauncher(), Paced(limit=5), BashLauncher(), CALL, {}),
        (None, None, BashLauncher(), BUILT_IN, {}),
    ],
)
def test_a_launcher_is_merged_field_by_field(
    of_call: ComputeLauncher | None,
    of_resource: ComputeLauncher | None,
    expected: ComputeLauncher,
    source: str,
    parts: dict[str, str],
) -> None:
    resource = ComputeResource(mode="local", default_launcher=of_resource)
    said = settled(resource, None, {"launcher": of_call})["launcher"]
    assert (said.value, said.source) == (expected, source)
    assert {name: part.source for name, part in said.parts.items()} == parts


def test_here_counts_less() -> None:
    found = say(SETTINGS[0], [], mode="local")
    assert {row.name for row in SETTINGS if not row.is_for_jobs} == set(found)
    assert {"launcher", "inputs"} <= set(found)
    assert "environment" not in found


def test_the_options_of_sbatch_come_from_everywhere() -> None:
    resource: Any = SimpleNamespace(cluster=lambda: SimpleNamespace(option_layers=lambda: {"built-in": {}}))
    step: Any = SimpleNamespace(asset_keys=("asset",), asset_metadata={"asset": {"slurm": {"nice": 1}}})
    arguments = {"config": SlurmRunConfig(extra_slurm_opts={"nice": 2}), "extra_slurm_opts": {"nice": 3}}
    layers = option_layers(resource, step, arguments)
    assert list(layers.items()) == [
        (BUILT_IN, {}),
        (METADATA, {"nice": 1}),
        (LAUNCHPAD, {"nice": 2}),
        (CALL, {"nice": 3}),
    ]


class TestNames:
    """A name that one list has and another has not."""

    def test_the_launchpad_says_what_a_call_can_say(self) -> None:
        assert set(SlurmRunConfig.model_fields) <= ARGUMENTS

    def test_the_resource_has_the_fields_of_the_table(self) -> None:
        assert {row.resource for row in SETTINGS if row.resource} <= set(ComputeResource.model_fields)

    def test_every_setting_of_the_launchpad_is_a_row(self) -> None:
        assert set(SlurmRunConfig.model_fields) - {"extra_slurm_opts"} <= {row.name for row in SETTINGS}

    def test_no_row_is_there_twice(self) -> None:
        for names in ([row.name for row in SETTINGS], [row.metadata for row in SETTINGS if row.metadata]):
            assert len(set(names)) == len(names)

    def test_the_options_of_clients_are_fields_of_the_spec(self) -> None:
        fields = {field.name for field in dataclasses.fields(WorkSpec)}
        assert set(JobOptions.__annotations__) - {"extra_files", "data"} <= fields

    @pytest.mark.parametrize("typed", [Arguments, PayloadOptions, JobOptions])
    def test_each_is_described(self, typed: type) -> None:
        own = set(typed.__annotations__) - (set(PayloadOptions.__annotations__) if typed is JobOptions else set())
        described = inspect.getdoc(typed) or ""
        assert [name for name in own if f"\n    {name}: " not in described] == []


RESOURCE_ARGUMENTS = {"payload_path", "launcher", "context"}
CLIENT_ARGUMENTS = {"payload", "context"}
CALLS: list[tuple[Callable[..., Any], str, type, set[str]]] = [
    (ComputeResource.run, "ComputeResource.run", Arguments, RESOURCE_ARGUMENTS),
    (
        ComputeResource.run_partitions,
        "ComputeResource.run_partitions",
        Arguments,
        {*RESOURCE_ARGUMENTS, "max_parallel"},
    ),
    (ComputeResource.plan, "ComputeResource.plan", Arguments, {*RESOURCE_ARGUMENTS, "partitions", "max_parallel"}),
    (SlurmPipesClient.run, "SlurmPipesClient.run", JobOptions, {*CLIENT_ARGUMENTS, "request"}),
    (SlurmPipesClient.run_partitions, "SlurmPipesClient.run_partitions", JobOptions, {"request", "max_parallel"}),
    (LocalPipesClient.run, "LocalPipesClient.run", PayloadOptions, CLIENT_ARGUMENTS),
    (LocalPipesClient.run_partitions, "LocalPipesClient.run_partitions", PayloadOptions, CLIENT_ARGUMENTS),
]


@pytest.mark.parametrize(("method", "name", "typed", "own"), CALLS, ids=[call[1] for call in CALLS])
class TestWhatUsersCall:
    def test_its_signature_has_every_name(
        self, method: Callable[..., Any], name: str, typed: type, own: set[str]
    ) -> None:
        parameters = inspect.signature(method).parameters
        assert own | set(typed.__annotations__) <= set(parameters)
        assert not [each for each in parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD]
        assert method.__qualname__ == name
        assert (method.__doc__ or "").endswith(inspect.getdoc(typed) or "nothing")

    def test_a_typo_is_told_with_the_names_there_are(
        self, method: Callable[..., Any], name: str, typed: type, own: set[str]
    ) -> None:
        with pytest.raises((TypeError, dg.Failure)) as refused:
            method(None, context=None, extra_envs={})
        told = str(refused.value)
        first, second, *_ = told.splitlines()
        assert first == f"{name}() has no argument 'extra_envs'"
        assert second.startswith("Did you mean 'extra_env'? It takes context, ")
        assert [each for each in own | set(typed.__annotations__) if each not in told] == []
        # In a step it is a failure which no RetryPolicy tries again; a plan is asked for outside of one.
        is_plan = method is ComputeResource.plan
        cause = refused.value if is_plan else refused.value.__cause__
        assert isinstance(cause, UnknownArgumentError) and isinstance(cause, TypeError)
        assert is_plan or (isinstance(refused.value, dg.Failure) and not refused.value.allow_retries)
