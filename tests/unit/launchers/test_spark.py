"""What of spark.sh and spark_program.py is decided on a node: sizes, and whether Java runs Spark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_slurm.transport.shell import shell_file

LAUNCHERS = "dagster_slurm.launchers"
PROGRAM = Path(__file__).parents[3] / "src" / "dagster_slurm" / "launchers" / "spark_program.py"
JAVA = """#!/bin/bash
[[ "$*" == *org.apache.spark.launcher.Main* ]] && [ -n "$LAUNCHER_FAILS" ] &&
    [[ "$*" != *"${MENDED_BY:-nothing}"* ]] && { printf '%b' "$LAUNCHER_FAILS" >&2; exit 1; }
[[ "$*" == *--add-modules=* ]] && [ -n "$NO_MODULES" ] && { echo "$NO_MODULES" >&2; exit 1; }
printf '%s\\0' java --add-modules=jdk.incubator.vector org.apache.spark.deploy.worker.Worker
"""
TOO_OLD = (
    "Error: LinkageError occurred while loading main class org.apache.spark.launcher.Main\\n"
    "\\tjava.lang.UnsupportedClassVersionError: org/apache/spark/launcher/Main has been compiled by a more recent "
    "version of the Java Runtime (class file version 61.0), this version of the Java Runtime only recognizes class "
    "file versions up to 55.0\\n"
)


def fitted(mib: int, cpus: int, **said: object) -> str:
    """`DRIVER HEAP CORES NUMBER EXECUTORS` as the first of three nodes has them, or why there are none."""
    variables = {"driver_mib": "", "executor_mib": "", "executor_cores": "", "executors": "", **said}
    script = "\n".join(
        (
            shell_file(LAUNCHERS, "nodes.sh"),
            shell_file(LAUNCHERS, "spark.sh"),
            *(f"spark_{name}={value}" for name, value in variables.items()),
            f"nodes_count=3; nodes_mib() {{ echo {mib}; }}; nodes_cpus() {{ echo {cpus}; }}",
            'nodes_fail() { echo "$1"; return 76; }',
            'spark_fit && echo "$driver $heap $cores $number $executors"',
        )
    )
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False).stdout.rstrip("\n")


@pytest.mark.parametrize(
    ("mib", "cpus", "said", "expected"),
    [
        (3000, 2, {}, "512 922 2 1 3"),
        (2400, 2, {}, "512 562 2 1 3"),
        (16384, 4, {}, "2048 7939 4 1 3"),
        (65536, 16, {}, "4096 18039 8 2 6"),
        (4096, 64, {}, "512 526 21 3 9"),
        (16384, 4, {"executor_cores": 1}, "2048 1984 1 4 12"),
        (16384, 4, {"executor_mib": 4096}, "2048 4096 4 1 3"),
        (16384, 8, {"executor_mib": 2048, "executor_cores": 2}, "2048 2048 2 4 12"),
        (16384, 4, {"executor_cores": 2, "executors": 5}, "2048 3969 2 2 5"),
        (16384, 4, {"driver_mib": 8192}, "8192 3883 4 1 3"),
    ],
)
def test_executors_fit_into_the_job(mib: int, cpus: int, said: dict[str, object], expected: str) -> None:
    assert fitted(mib, cpus, **said) == expected


@pytest.mark.parametrize(
    ("mib", "cpus", "said", "words"),
    [
        (1000, 2, {}, "of its 1000 MiB and 2 CPUs, the driver and Spark itself leave 0 MiB"),
        (4096, 2, {"executor_mib": 4096}, "an executor of 2 CPUs needs 4505 MiB"),
        (16384, 4, {"executor_cores": 8}, "an executor of 8 CPUs needs"),
        (16384, 4, {"executors": 9}, "there is room for 3 executors of 4 CPUs and 13232 MiB, and num_executors is 9"),
    ],
)
def test_what_does_not_fit_is_said_with_figures(mib: int, cpus: int, said: dict[str, object], words: str) -> None:
    assert words in fitted(mib, cpus, **said)


class Node:
    """A node with a Spark, or what looks like one."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.spark = directory / "spark"
        for path, text in {
            self.bin / "java": JAVA,
            self.spark / "bin" / "spark-class": "",
            self.spark / "jars" / "spark-core_2.13-4.3.0.jar": "",
            self.spark / "conf" / "log4j2.properties": "",
        }.items():
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(text)
            path.chmod(0o755)

    def look(self, home: str | None = None, **variables: str) -> tuple[int, list[str]]:
        path = f"{self.bin}:{os.environ['PATH']}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAVA", "SPARK"))}
        done = subprocess.run(
            [sys.executable, "-S", str(PROGRAM), "look", str(self.spark) if home is None else home],
            env={**environment, "PATH": path, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_node_with_a_spark(node: Node) -> None:
    version = f"4.3.0 {sys.version_info[0]}.{sys.version_info[1]}"
    status, lines = node.look()
    assert (status, lines[:-1]) == (0, [str(node.spark), version, sys.executable, f"{node.spark}/conf", ""])
    assert int(lines[-1]) > 0


def test_what_the_site_says_stands_elsewhere(node: Node) -> None:
    assert node.look(SPARK_CONF_DIR="/etc/spark")[1][3] == "/etc/spark"


def test_java_is_mended_where_it_does_not_understand_its_control_group(node: Node) -> None:
    status, lines = node.look(LAUNCHER_FAILS="NullPointerException", MENDED_BY="-XX:-UseContainerSupport")
    assert (status, lines[-2]) == (0, "-XX:-UseContainerSupport")


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"LAUNCHER_FAILS": TOO_OLD}, "its Java (java) is Java 11, and Spark 4.3.0 needs 17"),
        ({"LAUNCHER_FAILS": "Killed\\n\\tat a.b\\n"}, "its Java (java) does not run Spark: Killed"),
        ({"JAVA_HOME": "/no/java"}, "there is no Java (/no/java/bin/java), which Spark needs: load a module"),
        ({"NO_MODULES": "Module x not found"}, "lacks a module that Spark needs: Module x not found"),
    ],
)
def test_a_java_that_does_not_run_spark_is_refused(node: Node, variables: dict[str, str], reason: str) -> None:
    status, (line,) = node.look(**variables)
    assert status == 1
    assert reason in line


def test_without_a_spark(node: Node) -> None:
    assert node.look("/no/spark") == (1, ["there is no Spark in /no/spark: bin/spark-class is missing"])
    status, (line,) = node.look("")
    assert status == 1
    assert "there is no pyspark in its environment" in line
    assert "`uv add pyspark`" in line
