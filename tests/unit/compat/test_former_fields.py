"""Fields, arguments, methods and variables as code for 1.22 gives them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

import dagster_slurm
from dagster_slurm import (
    ComputeLauncher,
    ComputeResource,
    LaunchPlan,
    Payload,
    Place,
    SlurmAllocationScope,
    SlurmMetric,
    SlurmQueueConfig,
    SlurmResource,
    SlurmRunAllocationConfig,
    SlurmSessionResource,
    SSHConnectionResource,
)
from dagster_slurm.compat import fields
from dagster_slurm.compat.fields import as_our_arguments
from dagster_slurm.errors import ConfigurationError, InvalidRequestError, UnknownArgumentError
from dagster_slurm.resources.call import SETTINGS, with_default_files, work_of
from dagster_slurm.resources.settings import FORMER_METHODS


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fields, "_told", set())
    return iter([None])


WITHOUT_EFFECT = {
    "ray_head_allocation": None,
    "remote_pack_timeout": object(),
    "enable_cluster_reuse": True,
    "cluster_reuse_tolerance": 0.5,
}


@pytest.mark.parametrize(("name", "value"), WITHOUT_EFFECT.items())
def test_a_field_without_effect_is_said_once(name: str, value: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            ComputeResource(mode="local", **{name: value})  # type: ignore[arg-type]
    (line,) = [record.getMessage() for record in caplog.records if record.name == fields.__name__]
    assert line.startswith(f"{name} of ComputeResource is one of dagster-slurm 1.22, and has no effect here: ")


def test_one_that_would_mean_something_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no counterpart here"):
        ComputeResource(mode="local", ray_head_allocation=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("resource", "given"),
    [
        (
            SlurmSessionResource,
            {
                "enable_health_checks": True,
                "enable_session": True,
                "ray_head_only": False,
                "worker_allocation": None,
                "signal_before_timeout": "TERM@60",
            },
        ),
        (SlurmRunAllocationConfig, {"signal_before_timeout": "TERM@60"}),
    ],
)
def test_fields_of_an_allocation(resource: Any, given: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        made = resource(num_nodes=3, **given)
    assert made.num_nodes == 3
    said = [record.getMessage() for record in caplog.records if record.name == fields.__name__]
    assert [line.partition(" ")[0] for line in said] == list(given)


@pytest.mark.parametrize("given", [{"enable_session": False}, {"ray_head_only": True}, {"worker_allocation": object()}])
def test_those_that_would_mean_something_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="has no counterpart here") as caught:
        SlurmSessionResource(**given)
    assert "docs/migration.md#" in str(caught.value.hint)


def test_a_connection_that_was_to_be_closed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("DAGSTER_SLURM_SSH_CLOSE_MASTER_ON_EXIT", "1")
    monkeypatch.setenv("SLURM_EDGE_NODE_HOST", "login")
    with caplog.at_level(logging.WARNING):
        SSHConnectionResource.from_env()
    assert "is not read: other processes use the shared connection" in caplog.text


def test_a_figure_that_is_of_one_node_alone(tmp_path: Path) -> None:
    payload = tmp_path / "payload.sh"
    payload.write_text("true\n")
    compute = ComputeResource(mode="slurm", slurm=SlurmResource())
    said: list[str] = []
    log = SimpleNamespace(warning=said.append, info=said.append)
    step: Any = SimpleNamespace(log=log, asset_metadata={})
    for nodes in (1, 2):
        given = {"slurm_metrics": [SlurmMetric.GPU_UTILIZATION_MAX_NODE], "extra_slurm_opts": {"nodes": nodes}}
        work_of(compute, step, {"payload_path": payload, **given})
        assert len(said) == nodes - 1
    assert said[0].startswith("slurm_gpu_utilization_max_node is left out")


def test_a_member_of_the_enum_is_its_word() -> None:
    assert ComputeResource(mode="local", allocation_scope=SlurmAllocationScope.ASSET).mode == "local"  # type: ignore[call-arg]


def test_a_typo_is_still_refused() -> None:
    with pytest.raises(UnknownArgumentError, match="session_"):
        ComputeResource(mode="local", session_=None)  # type: ignore[call-arg]


def test_a_field_with_another_name() -> None:
    assert SlurmResource(status_poll_backoff_factor=2.5).status_poll_backoff == 2.5  # type: ignore[call-arg]


def test_they_do_in_a_run_as_well() -> None:
    compute = ComputeResource(
        mode="slurm",
        session=None,  # type: ignore[call-arg]
        enable_cluster_reuse=False,  # type: ignore[call-arg]
        slurm=SlurmResource(queue=SlurmQueueConfig(), status_poll_backoff_factor=2),  # type: ignore[call-arg]
        default_extra_files=["metaxy.toml"],
    )
    seen: list[Any] = []

    @dg.op
    def look(compute: ComputeResource) -> None:
        seen.append((compute.cluster().status_poll_backoff, compute.default_extra_files))

    @dg.job(resource_defs={"compute": compute})
    def looks() -> None:
        look()

    assert looks.execute_in_process().success
    assert seen == [(2.0, ["metaxy.toml"])]


class TestTheCall:
    """What `compute.run` is given."""

    def test_a_fourth_by_position_is_refused_with_both_orders(self, tmp_path: Path) -> None:
        (tmp_path / "a.sh").write_text("true\n")

        @dg.asset
        def asset(context: dg.AssetExecutionContext) -> None:
            compute = ComputeResource(mode="local")
            compute.run(context, tmp_path / "a.sh", None, {"cpus_per_task": 1})  # type: ignore[call-arg]

        with pytest.raises(dg.Failure, match="by position, and is given 4 arguments") as failed:
            dg.materialize([asset])
        assert isinstance(failed.value.__cause__, UnknownArgumentError)
        hint = str(failed.value.__cause__.hint)
        assert "extra_slurm_opts, resource_requirements" in hint
        assert "extras, extra_env" in hint

    def test_what_has_no_effect_is_a_line_of_the_run_s_log(self) -> None:
        said: list[str] = []
        context = SimpleNamespace(log=SimpleNamespace(info=said.append))
        given = {"poll_timeout": 600, "defer_cleanup": True, "resource_requirements": {}, "name": "a"}
        assert as_our_arguments("run", (None, context, "a.sh"), given) == ({"name": "a"}, {})
        assert [line.partition(" ")[0] for line in said] == ["poll_timeout", "defer_cleanup", "resource_requirements"]

    def test_overrides_are_what_the_call_says(self, tmp_path: Path) -> None:
        (tmp_path / "a.sh").write_text("true\n")
        given = {"pre_deployed_env_path_override": "/other", "pack_cmd_override": ["pack"]}
        ours, meant = as_our_arguments("run", (), given)
        assert (ours, meant) == ({}, {"pre_deployed_env_path": "/other", "pack_cmd": ["pack"]})
        assert set(meant) <= {row.name for row in SETTINGS}
        resource = ComputeResource(mode="slurm", slurm=SlurmResource(), pre_deployed_env_path="/env")
        spec = work_of(resource, None, {"payload_path": tmp_path / "a.sh", **meant})
        assert (spec.environment.title, spec.said["environment"].source) == ("/other", "call")

    def test_an_unknown_one_is_refused_as_ever(self, tmp_path: Path) -> None:
        (tmp_path / "a.sh").write_text("true\n")

        @dg.asset
        def asset(context: dg.AssetExecutionContext) -> None:
            ComputeResource(mode="local").run(context, tmp_path / "a.sh", poll_timeout=3, nonsense=4)  # type: ignore[call-arg]

        with pytest.raises(dg.Failure, match="has no argument 'nonsense'"):
            dg.materialize([asset])

    def test_it_runs_with_them(self, tmp_path: Path) -> None:
        (tmp_path / "a.sh").write_text("cat beside.txt\n")
        (tmp_path / "beside.txt").write_text("beside\n")
        compute = ComputeResource(mode="local", default_extra_files=[str(tmp_path / "beside.txt")])

        @dg.asset
        def asset(context: dg.AssetExecutionContext) -> Any:
            run = compute.run(context, tmp_path / "a.sh", poll_timeout=3, defer_cleanup=False)  # type: ignore[call-arg]
            return run.get_materialize_result()

        assert dg.materialize([asset]).success


@pytest.mark.parametrize(
    ("own", "default", "expected"),
    [
        (None, [], []),
        (["a"], [], ["a"]),
        (None, ["d/x"], ["d/x"]),
        (["a", "d/x"], ["d/x", "d/y"], ["a", "d/x", "d/y"]),
        ({"b": "a"}, ["d/x"], {"b": "a", "x": "d/x"}),
        ({"b": "d/x"}, ["d/x"], {"b": "d/x"}),
    ],
)
def test_files_of_every_call(own: Any, default: Any, expected: Any) -> None:
    assert with_default_files(own, default) == expected


def test_two_files_of_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="'x' is the name of two files"):
        with_default_files({"x": "a"}, ["d/x"])
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "x").write_text("")
    (tmp_path / "a.sh").write_text("true\n")
    compute = ComputeResource(mode="local", default_extra_files=[str(tmp_path / "a/x")])
    with pytest.raises(InvalidRequestError, match="Two files would be 'x'"):
        work_of(compute, None, {"payload_path": tmp_path / "a.sh", "extra_files": [tmp_path / "b/x"]})


def test_former_methods() -> None:
    compute: Any = ComputeResource(mode="local")
    for name in FORMER_METHODS:
        if name.startswith("get_"):
            with pytest.raises(InvalidRequestError, match=rf"{name}\(\) of dagster-slurm 1.22"):
                getattr(compute, name)(None)
        else:
            assert getattr(compute, name)("anything") is None
    with pytest.raises(AttributeError):
        _ = compute.nonsense


def test_a_provider_of_certificates_is_refused_with_the_field() -> None:
    with pytest.raises(ConfigurationError, match="set_auth_provider") as refused:
        SlurmResource().set_auth_provider(object())
    assert "before_connect=" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("name", "given"),
    [("SlurmPipesClient", {"slurm_resource": 1, "launcher": 2}), ("LocalPipesClient", {"launcher": 2})],
)
def test_a_client_as_in_1_22_is_refused_when_it_is_made(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} takes no launcher") as refused:
        getattr(dagster_slurm, name)(**given)
    assert "`ComputeResource(mode=" in str(refused.value.hint)


class TestVariables:
    """The environment of 1.22."""

    @pytest.fixture(autouse=True)
    def _none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SLURM_EDGE_NODE_HOST", "SLURM_SSH_HOST", "SLURM_MEM"):
            monkeypatch.delenv(name, raising=False)

    def test_the_former_prefix_counts_where_only_that_names_a_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"HOST": "old.example.org", "USER": "me", "PORT": "2222", "KEY": "/k"}.items():
            monkeypatch.setenv(f"SLURM_SSH_{name}", value)
        ssh = SSHConnectionResource.from_env()
        assert (ssh.host, ssh.user, ssh.port, ssh.key_path) == ("old.example.org", "me", 2222, "/k")
        slurm = SlurmResource.from_env()
        assert slurm.ssh is not None
        assert slurm.ssh.host == "old.example.org"
        assert SSHConnectionResource.from_env("SLURM_SSH").host == "old.example.org"
        monkeypatch.setenv("SLURM_EDGE_NODE_HOST", "new.example.org")
        assert SSHConnectionResource.from_env().host == "new.example.org"

    def test_a_prefix_that_is_asked_for_is_the_only_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLURM_SSH_HOST", "old.example.org")
        with pytest.raises(ConfigurationError, match="SITE_HOST is not set"):
            SSHConnectionResource.from_env("SITE_")

    @pytest.mark.parametrize(
        ("value", "field", "option"),
        [
            ("inherit", None, None),
            ("INHERIT", None, None),
            ("true", True, "BatchMode=yes"),
            ("no", False, "BatchMode=no"),
        ],
    )
    def test_batch_mode(
        self, monkeypatch: pytest.MonkeyPatch, value: str, field: bool | None, option: str | None
    ) -> None:
        monkeypatch.setenv("SLURM_EDGE_NODE_HOST", "a.example.org")
        monkeypatch.setenv("SLURM_EDGE_NODE_BATCH_MODE", value)
        monkeypatch.setenv("SLURM_EDGE_NODE_HOST_KEY_CHECKING", "OFF")
        ssh = SSHConnectionResource.from_env()
        assert (ssh.batch_mode, ssh.host_key_checking) == (field, "off")
        found = [each for each in ssh.connection().arguments() if each.startswith("BatchMode")]
        assert found == ([] if option is None else [option])

    @pytest.mark.parametrize("value", ["", "  "])
    def test_a_blank_memory_drops_the_option(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("SLURM_MEM", value)
        assert "mem" not in SlurmResource.from_env_slurm(None).default_options()
        monkeypatch.delenv("SLURM_MEM")
        assert SlurmResource.from_env_slurm(None).default_options()["mem"] == "4096M"


def test_a_launcher_of_1_22_is_refused_when_it_is_defined() -> None:
    with pytest.raises(ConfigurationError, match="has prepare_execution") as refused:

        class Old(ComputeLauncher):
            def prepare_execution(self, payload_path: str) -> None: ...

    lines = str(refused.value.hint)
    program = "\n".join(line.removeprefix("    ") for line in lines.splitlines() if line.startswith("    "))
    space: dict[str, Any] = {name: getattr(dagster_slurm, name) for name in ("LaunchPlan", "Payload", "Place")}
    exec(program, space | {"payload_command": dagster_slurm.payload_command}, space)
    plan = space["plan"](None, Payload("a.py", "python", None), Place.here("python3"))
    assert plan.command == ("nice", "python3", "a.py")

    class Both(ComputeLauncher):
        def prepare_execution(self, payload_path: str) -> None: ...

        def plan(self, payload: Payload, place: Place) -> LaunchPlan:
            return LaunchPlan((), ("true",))

    assert Both().plan(Payload("a.py", "python", None), Place.here("python3")).command == ("true",)
