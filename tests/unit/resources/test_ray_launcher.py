"""What RayLauncher plans and asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dagster_slurm import Place, RayLauncher, RayPortConfig
from dagster_slurm.environments import Activation
from dagster_slurm.launchers import launch_script, payload_from_path
from dagster_slurm.slurm.request import merge

PAGE = Path(__file__).parents[3] / "docs" / "ray.md"
ENVIRONMENT = Activation((". /envs/it\\'s/activate",), "/envs/it's/bin/python", "an environment", ("apptainer", "exec"))


def values_of(launcher: RayLauncher, place: Place | None = None) -> dict[str, object]:
    (hook,) = launcher.plan(payload_from_path("-m work"), place or Place(ENVIRONMENT)).hooks
    return dict(hook.values)


def test_every_option_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE.read_text().partition("## Options")[2], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(RayLauncher.model_fields)


def test_the_payload_is_run_as_without_it() -> None:
    plan = RayLauncher().plan(payload_from_path("-m work"), Place(ENVIRONMENT))
    assert plan.command == ("apptainer", "exec", "/envs/it's/bin/python", "-m", "work")
    script = launch_script(plan)
    assert "ray_setup() {\n. /envs/it\\'s/activate\n}" in script
    assert "ray_pre_start() {\n:\n}" in script
    assert """ray_python=(apptainer exec '/envs/it'"'"'s/bin/python')""" in script


def test_lines_before_the_start_have_to_succeed_one_by_one() -> None:
    plan = RayLauncher(pre_start_commands=["module load gcc # for g++", "ulimit -n 9999"]).plan(
        payload_from_path("-m work"), Place(ENVIRONMENT)
    )
    body = "{ module load gcc # for g++\n} || return\n{ ulimit -n 9999\n} || return"
    assert f"ray_pre_start() {{\n{body}\n}}" in launch_script(plan)


@pytest.mark.parametrize(
    ("launcher", "ports"),
    [
        (RayLauncher(), ("--port=6379", "--dashboard-port=8265")),
        (
            RayLauncher(ray_port=7000, port_config=RayPortConfig(min_worker_port=8000, max_worker_port=8999)),
            ("--port=7000", "--dashboard-port=8265", "--min-worker-port=8000", "--max-worker-port=8999"),
        ),
    ],
)
def test_fixed_ports(launcher: RayLauncher, ports: tuple[str, ...]) -> None:
    assert values_of(launcher)["fixed"] == ports


def test_where_it_is() -> None:
    here = values_of(RayLauncher(), Place.here("python3", 4))
    assert (here["here"], here["cpus"], here["gpus"]) == ("yes", "4", "0")
    job = values_of(RayLauncher(object_store_memory_gb=1.5), Place(ENVIRONMENT, nodes=3, cpus=8, gpus=2))
    assert (job["here"], job["cpus"], job["gpus"], job["store_mib"]) == ("", "", "2", "1536")


@pytest.mark.parametrize(
    ("launcher", "named"),
    [
        (RayLauncher(), ""),
        (RayLauncher(port_strategy="fixed", ray_port=7000), ""),
        (RayLauncher(ray_port=7000, redis_password="x"), "RayLauncher: redis_password, ray_port without effect"),
    ],
)
def test_what_has_no_effect_is_named(launcher: RayLauncher, named: str) -> None:
    assert values_of(launcher)["ignored"] == named


@pytest.mark.parametrize(
    ("launcher", "nodes", "options"),
    [
        (RayLauncher(), 1, {}),
        (RayLauncher(), 2, {"no_kill": True}),
        (RayLauncher(num_gpus_per_node=2), 2, {"no_kill": True, "gpus_per_node": 2}),
        (RayLauncher(ray_address="n1:6379", num_gpus_per_node=2), 2, {}),
    ],
)
def test_what_it_asks_of_slurm(launcher: RayLauncher, nodes: int, options: dict[str, object]) -> None:
    assert dict(launcher.requirements(merge({"nodes": nodes})).options) == options


def test_two_ways_to_an_address_are_refused() -> None:
    launcher = RayLauncher(network_interface="ib0", node_ip_address_command="hostname -i")
    (refusal,) = launcher.requirements(None).refusals
    assert "network_interface and node_ip_address_command" in refusal


def test_no_time_to_start_is_refused() -> None:
    (refusal,) = RayLauncher(head_startup_timeout=0).requirements(None).refusals
    assert refusal == "head_startup_timeout is 0, at least 1 is possible"


@pytest.mark.parametrize("launcher", [RayLauncher(), RayLauncher(ray_address="n1:6379")])
def test_its_lock_has_to_have_ray(launcher: RayLauncher) -> None:
    assert launcher.requirements(merge({"nodes": 2})).packages == ("ray",)
