"""What a launcher is told and asked, and which one holds."""

import os
from typing import Any

import dagster as dg
import pytest
from pydantic import Field

from dagster_slurm import (
    BashLauncher,
    ComputeLauncher,
    ComputeResource,
    JobRequest,
    LaunchPlan,
    Payload,
    Place,
    Requirements,
    SlurmQueueConfig,
    SlurmResource,
    payload_command,
)
from dagster_slurm.environments import Activation
from dagster_slurm.errors import ConfigurationError, InvalidRequestError
from dagster_slurm.resources.call import chosen_launcher, requested, work_of
from dagster_slurm.slurm.request import merge
from dagster_slurm.work.spec import BUILT_IN

ACTIVATION = Activation((), "py", "")


class Tasks(BashLauncher):
    """Some fields, one of them of an environment variable."""

    per_node: int = 1
    mode: str = "plain"
    token: str = ""
    labels: dict[str, str] = Field(default={})

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        command = payload_command(payload, place.activation)
        return LaunchPlan((), ("env", f"MODE={self.mode}", f"TOKEN={self.token}", *command))

    def requirements(self, request: JobRequest | None) -> Requirements:
        if request is not None and request.nodes > 3:
            return Requirements(refusals=(f"it has {request.nodes} nodes, and runs on 3 at most",))
        if self.mode == "odd":
            return Requirements(refusals=("mode is 'odd'", f"per_node is {self.per_node}"))
        return Requirements({"ntasks_per_node": self.per_node, "no_kill": True, "mem": "1G"})


class Others(Tasks):
    """Of another type, though it has the same fields."""


class TestMerging:
    """One of the call over the resource's."""

    @pytest.mark.parametrize(
        ("given", "fields", "sources"),
        [
            ([None, None, Tasks(per_node=2)], (2, "plain"), {"per_node": "resource"}),
            ([Tasks(mode="x"), None, Tasks(per_node=2)], (2, "x"), {"mode": "call", "per_node": "resource"}),
            (
                [Tasks(per_node=1), None, Tasks(per_node=2, mode="x")],
                (1, "x"),
                {"mode": "resource", "per_node": "call"},
            ),
            ([Tasks(), None, Tasks(per_node=2)], (2, "plain"), {"per_node": "resource"}),
            ([Others(mode="x"), None, Tasks(per_node=2)], (1, "x"), {"mode": "call"}),
            ([Tasks(mode="x"), None, Others(per_node=2)], (1, "x"), {"mode": "call"}),
            (
                [Tasks(mode="x"), Tasks(mode="y", per_node=3), Tasks(per_node=2, token="t")],
                (3, "x"),
                {"mode": "call", "per_node": "launchpad", "token": "resource"},
            ),
            ([Tasks(mode="x"), Others(per_node=3), Tasks(per_node=2)], (1, "x"), {"mode": "call"}),
        ],
    )
    def test_fields(self, given: list[Any], fields: tuple[int, str], sources: dict[str, str]) -> None:
        said = dict(zip(("call", "launchpad", "resource"), given, strict=True))
        chosen = chosen_launcher({**said, "built-in": BashLauncher()})
        assert isinstance(chosen.value, Tasks)
        assert (chosen.value.per_node, chosen.value.mode) == fields
        assert {name: part.source for name, part in chosen.parts.items()} == sources
        first = next(name for name, launcher in said.items() if launcher)
        assert (type(chosen.value), chosen.source) == (type(said[first]), first)

    def test_nobody_says_anything(self) -> None:
        chosen = chosen_launcher({"call": None, "built-in": BashLauncher()})
        assert (type(chosen.value), chosen.source, chosen.parts) == (BashLauncher, "built-in", {})

    def test_variables_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOKEN_HERE", "secret")
        monkeypatch.setenv("NUMBER_HERE", "7")
        given = Tasks(per_node=dg.EnvVar.int("NUMBER_HERE"), labels={"a": dg.EnvVar("TOKEN_HERE")})
        found = chosen_launcher({"call": given, "resource": Tasks(token=dg.EnvVar("TOKEN_HERE"))}).value
        assert isinstance(found, Tasks)
        assert (found.per_node, found.token, found.labels) == (7, "secret", {"a": "secret"})

    def test_in_a_run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("TOKEN_HERE", "of the variable")
        path = tmp_path / "payload.sh"
        path.write_text('echo "ran with $MODE and $TOKEN"\n')

        @dg.asset
        def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            return compute.run(context, path, launcher=Tasks(mode="the call's")).get_materialize_result()

        launcher = Tasks(mode="the resource's", token=dg.EnvVar("TOKEN_HERE"))
        compute = ComputeResource(mode="local", default_launcher=launcher)
        assert dg.materialize([measured], resources={"compute": compute}).success
        assert "ran with the call's and of the variable" in capfd.readouterr().out

    def test_the_plan_shows_it(self, tmp_path: Any) -> None:
        (tmp_path / "payload.sh").touch()
        compute = ComputeResource(mode="local", default_launcher=Tasks(per_node=2, token="t"))
        plan = compute.plan(None, tmp_path / "payload.sh", launcher=Tasks(mode="x"))
        shown = {each.name: (each.value, each.source) for each in plan.settings if each.name.startswith("launcher")}
        assert shown == {
            "launcher": ("Tasks", "call"),
            "launcher.mode": ("x", "call"),
            "launcher.per_node": ("2", "resource"),
            "launcher.token": ("t", "resource"),
        }


class TestRequirements:
    """Options below all that users say, and refusals before anything else."""

    @pytest.mark.parametrize(
        ("layers", "options", "sources"),
        [
            (
                {"resource": {}},
                {"mem": "1024M", "no-kill": True, "ntasks-per-node": "1"},
                {"mem": "launcher", "no-kill": "launcher", "ntasks-per-node": "launcher", "nodes": "built-in"},
            ),
            ({"resource": {"mem": "2G"}}, {"mem": "2048M"}, {"mem": "resource"}),
            ({"resource": {"mem_per_cpu": "2G"}}, {"mem-per-cpu": "2048M"}, {"mem-per-cpu": "resource"}),
            (
                {"asset metadata": {"ntasks_per_node": 4}},
                {"ntasks-per-node": "4"},
                {"ntasks-per-node": "asset metadata"},
            ),
            ({"call": {"no_kill": None}}, {"mem": "1024M"}, {"mem": "launcher"}),
        ],
    )
    def test_options(
        self, layers: dict[str, dict[str, object]], options: dict[str, object], sources: dict[str, str]
    ) -> None:
        request, found, _ = requested(Tasks(), {BUILT_IN: {"mem": "4G", "nodes": 1}, **layers})
        assert {**request.sbatch_options(), **options} == request.sbatch_options()
        assert {**found, **sources} == found
        assert ("no-kill" in request.options) is ("no_kill" not in layers.get("call", {}))
        assert ("mem" in request.sbatch_options()) is ("mem-per-cpu" not in request.sbatch_options())

    def test_without_any_nothing_changes(self) -> None:
        layers = {BUILT_IN: {"mem": "4G"}, "resource": {"nodes": 2}}
        assert requested(BashLauncher(), layers)[:2] == (
            merge(*layers.values()),
            {"mem": "built-in", "nodes": "resource"},
        )

    def test_a_refusal_says_who_refuses_what(self) -> None:
        with pytest.raises(InvalidRequestError, match="Tasks cannot start the payload: it has 4 nodes, and runs on 3"):
            requested(Tasks(), {BUILT_IN: {}, "call": {"nodes": 4}})
        with pytest.raises(InvalidRequestError, match="mode is 'odd'; per_node is 3"):
            requested(Tasks(mode="odd", per_node=3), {BUILT_IN: {}})

    def test_a_refusal_on_this_machine(self, tmp_path: Any) -> None:
        (tmp_path / "payload.sh").touch()
        arguments = {"payload_path": tmp_path / "payload.sh", "launcher": Tasks(mode="odd")}
        with pytest.raises(InvalidRequestError, match="Tasks cannot start the payload: mode is 'odd'"):
            work_of(ComputeResource(mode="local"), None, arguments)

    @pytest.mark.parametrize(
        ("options", "says"),
        [({"nokill": True}, "sbatch has no option 'nokill'"), ({"array": "1"}, "'array' cannot be set")],
    )
    def test_an_option_that_is_wrong_is_the_launchers_fault(self, options: dict[str, object], says: str) -> None:
        class Wrong(BashLauncher):
            def requirements(self, request: JobRequest | None) -> Requirements:
                return Requirements(options)

        with pytest.raises(ConfigurationError, match=f"Wrong.requirements: .*{says}"):
            requested(Wrong(), {BUILT_IN: {}})

    def test_in_a_call(self, tmp_path: Any) -> None:
        (tmp_path / "payload.sh").touch()
        slurm = SlurmResource(queue=SlurmQueueConfig(num_nodes=2))
        resource = ComputeResource(mode="slurm", slurm=slurm, default_launcher=Tasks(per_node=2))
        work = work_of(resource, None, {"payload_path": tmp_path / "payload.sh", "launcher": Tasks()})
        request, sources = work.request, work.option_sources
        assert (request.options["ntasks-per-node"], sources["ntasks-per-node"]) == ("2", "launcher")
        # The queue does not say so, the resource's class does: built in.
        assert (request.mem_mib, sources["mem"]) == (1024, "launcher")
        assert sources["nodes"] == "resource"


class TestPlace:
    """What of a request launchers are told."""

    @pytest.mark.parametrize(
        ("asked", "place"),
        [
            ({}, Place(ACTIVATION, 1, None, 0, None)),
            ({"cpus": 4, "mem": "2G"}, Place(ACTIVATION, 1, 4, 0, 2048)),
            ({"nodes": 3, "cpus": 4, "ntasks_per_node": 2, "gpus_per_node": 1}, Place(ACTIVATION, 3, 8, 1, None)),
            ({"cpus": 4, "mem_per_cpu": "100M"}, Place(ACTIVATION, 1, 4, 0, 400)),
            ({"mem_per_cpu": "100M"}, Place(ACTIVATION, 1, None, 0, None)),
            ({"cpus": 4, "mem": 0}, Place(ACTIVATION, 1, 4, 0, None)),
            ({"cpus": 4, "exclusive": True}, Place(ACTIVATION, 1, None, 0, None)),
        ],
    )
    def test_of_a_job(self, asked: dict[str, object], place: Place) -> None:
        assert Place.of_job(ACTIVATION, merge(asked)) == place

    def test_of_this_machine(self) -> None:
        place = Place.here("py", cpus=4)
        assert (place.activation.python, place.nodes, place.cpus, place.gpus, place.is_slurm) == (
            "py",
            1,
            4,
            None,
            False,
        )

    def test_here_it_has_the_cpus_that_may_be_used(self, tmp_path: Any) -> None:
        seen: list[Place] = []

        class Looks(BashLauncher):
            def plan(self, payload: Payload, place: Place) -> LaunchPlan:
                seen.append(place)
                return super().plan(payload, place)

        (tmp_path / "payload.sh").touch()
        ComputeResource(mode="local", default_launcher=Looks()).plan(None, tmp_path / "payload.sh")
        assert [place.cpus for place in seen] == [len(os.sched_getaffinity(0))]


def test_a_plan_of_before_is_refused_when_it_is_defined() -> None:
    with pytest.raises(
        ConfigurationError, match=r"Before\.plan takes an activation, and is called with a Place"
    ) as caught:

        class Before(ComputeLauncher):
            def plan(self, payload, activation):  # type: ignore[no-untyped-def, override]
                return None

    assert "def plan(self, payload, place)" in str(caught.value)


def test_a_launcher_without_a_plan() -> None:
    with pytest.raises(NotImplementedError, match="ComputeLauncher has to override `plan`"):
        ComputeLauncher().plan(Payload("x", None, None), Place(ACTIVATION))
