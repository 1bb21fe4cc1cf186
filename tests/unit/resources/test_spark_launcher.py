"""What SparkLauncher plans and asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dagster_slurm import Place, SparkLauncher
from dagster_slurm.environments import Activation
from dagster_slurm.errors import InvalidQuantityError
from dagster_slurm.launchers import launch_script, payload_from_path
from dagster_slurm.slurm.request import merge

PAGE = Path(__file__).parents[3] / "docs" / "spark.md"
ENVIRONMENT = Activation((". /envs/it\\'s/activate",), "/envs/it's/bin/python", "an environment", ("apptainer", "exec"))


def values_of(launcher: SparkLauncher, place: Place | None = None) -> dict[str, object]:
    (hook,) = launcher.plan(payload_from_path("-m work"), place or Place(ENVIRONMENT)).hooks
    return dict(hook.values)


def test_every_option_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE.read_text().partition("## Options")[2], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(SparkLauncher.model_fields)


def test_the_payload_is_run_as_without_it_but_with_the_clusters_spark() -> None:
    plan = SparkLauncher().plan(payload_from_path("-m work"), Place(ENVIRONMENT))
    assert plan.command == ("apptainer", "exec", "/envs/it's/bin/python", "-m", "work")
    # Behind the environment, which may have a Spark of its own.
    assert plan.setup == (*ENVIRONMENT.setup, "spark_export")
    script = launch_script(plan)
    assert "spark_setup() {\n. /envs/it\\'s/activate\n}" in script
    assert "spark_wrapper=(apptainer exec)" in script


def test_sizes_are_mib_and_what_is_left_open_is_for_the_node() -> None:
    values = values_of(SparkLauncher(executor_memory="4G", driver_memory="600", num_executors=6))
    sizes = ("executor_mib", "driver_mib", "executors", "executor_cores")
    assert [values[name] for name in sizes] == ["4096", "600", "6", ""]


def test_properties_are_written_as_a_file_has_them() -> None:
    conf = {"spark.sql.shuffle.partitions": "12", "spark.executor.extraJavaOptions": "-Dx=a\\b\nc"}
    assert values_of(SparkLauncher(conf=conf))["conf"] == (
        "spark.sql.shuffle.partitions 12",
        "spark.executor.extraJavaOptions -Dx=a\\\\b\\nc",
    )


@pytest.mark.parametrize(("conf", "auth"), [({}, "yes"), ({"spark.authenticate": "False"}, "")])
def test_authentication_is_on_unless_the_user_says_otherwise(conf: dict[str, str], auth: str) -> None:
    assert values_of(SparkLauncher(conf=conf))["auth"] == auth


@pytest.mark.parametrize(
    ("launcher", "nodes", "options"),
    [
        (SparkLauncher(), 1, {}),
        (SparkLauncher(), 2, {"no_kill": True}),
        (SparkLauncher(master_url="spark://n9:7077"), 2, {}),
    ],
)
def test_what_it_asks_of_slurm(launcher: SparkLauncher, nodes: int, options: dict[str, object]) -> None:
    assert dict(launcher.requirements(merge({"nodes": nodes})).options) == options


@pytest.mark.parametrize(
    ("launcher", "refusal"),
    [
        (SparkLauncher(conf={"spark.master": "local"}), "conf has 'spark.master', which is said by master_url"),
        (SparkLauncher(conf={"spark.cores.max": "3"}), "conf has 'spark.cores.max', which is said by num_executors"),
        (SparkLauncher(conf={"sql.x": "3"}), "conf has 'sql.x', and properties of Spark begin with 'spark.'"),
        (SparkLauncher(conf={"spark.a b": "3"}), "conf has 'spark.a b', and"),
        (
            SparkLauncher(executor_memory="256M"),
            "executor_memory is 256M, and Spark does not start with less than 512M",
        ),
        (SparkLauncher(spark_home="spark"), "spark_home 'spark' is not an absolute path"),
        (SparkLauncher(executor_cores=8), "executor_cores is 8, and a node has 4 CPUs of the job"),
    ],
)
def test_what_cannot_be_is_refused(launcher: SparkLauncher, refusal: str) -> None:
    (said,) = launcher.requirements(merge({"cpus_per_task": 4})).refusals
    assert said.startswith(refusal)


def test_an_amount_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidQuantityError, match="2 gigs"):
        SparkLauncher(driver_memory="2 gigs").requirements(None)


@pytest.mark.parametrize(
    ("launcher", "packages"),
    [
        (SparkLauncher(), ("pyspark",)),
        (SparkLauncher(master_url="spark://n9:7077"), ("pyspark",)),
        (SparkLauncher(spark_home="/opt/spark"), ()),
    ],
)
def test_its_lock_has_to_have_pyspark_unless_the_nodes_have_a_spark(
    launcher: SparkLauncher, packages: tuple[str, ...]
) -> None:
    assert launcher.requirements(merge({"nodes": 2})).packages == packages
