"""The files on the page about deployments: units of systemd, settings of Dagster, an image and its containers."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from importlib.metadata import distribution
from typing import Any

import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster._core.workspace.config_schema import process_workspace_config

from tests.docs.markdown import ROOT, Block, blocks_of

BLOCKS = blocks_of(ROOT / "docs" / "deploy.md")
UNITS = [block for block in BLOCKS if block.language == "ini"]
SETTINGS: list[dict[str, Any]] = [yaml.safe_load(block.text) for block in BLOCKS if block.language == "yaml"]
# The options of each program that the page uses.
PROGRAMS = {"dagster": "dagster", "dagster-daemon": "dagster", "dagster-webserver": "dagster-webserver"}


def _with(key: str) -> list[dict[str, Any]]:
    return [each for each in SETTINGS if key in each]


def _is_installed(program: str) -> bool:
    return any(entry.name == program for entry in distribution(PROGRAMS[program]).entry_points)


@pytest.mark.parametrize("block", UNITS, ids=lambda block: block.place)
def test_a_unit(block: Block) -> None:
    unit = configparser.RawConfigParser(strict=False, delimiters="=")
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read_string(block.text)
    assert unit.sections() == ["Unit", "Service", "Install"]
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert _is_installed(program.rpartition("/")[2])
    assert arguments
    assert unit["Service"]["EnvironmentFile"].startswith(unit["Service"]["WorkingDirectory"].rpartition("/")[0])


def test_a_restart_of_the_code_location_leaves_its_runs_alone() -> None:
    (code,) = [block.text for block in UNITS if " api grpc " in block.text]
    assert "\nKillMode=process\n" in code
    assert len(UNITS) == 3


def test_dagster_takes_its_settings() -> None:
    instances = _with("run_retries")
    assert len(instances) == 2
    for settings in instances:
        result = validate_config(dagster_instance_config_schema(), settings)
        assert result.success, result.errors
    (workspace,) = _with("load_from")
    processed = process_workspace_config(workspace)
    assert processed.success, processed.errors


def test_the_containers_are_whole() -> None:
    (compose,) = _with("services")
    services = compose["services"]
    for service in services.values():
        named = [volume.partition(":")[0] for volume in service.get("volumes", ())]
        assert {name for name in named if not name.startswith(".")} <= set(compose["volumes"])
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
    assert {service["command"][0] for service in services.values() if "command" in service} <= PROGRAMS.keys()
    assert services["webserver"]["ports"] == ["127.0.0.1:3000:3000"]


def test_the_image_is_well_formed() -> None:
    (block,) = [block for block in BLOCKS if block.language == "dockerfile"]
    lines = block.text.replace("\\\n", "").splitlines()
    words = [line.split(maxsplit=1) for line in lines]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in words} <= known
    assert words[0][0] == "FROM"
    (command,) = [json.loads(rest) for word, rest in words if word == "CMD"]
    assert _is_installed(command[0])
    assert "openssh-client" in block.text
    # No process of it is root's.
    assert words.index(["USER", "dagster"]) < [word for word, _ in words].index("CMD")


def test_the_chart_runs_each_run_by_itself() -> None:
    (values,) = _with("runLauncher")
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    (code,) = values["dagster-user-deployments"]["deployments"]
    mounted = {mount["name"] for mount in code["volumeMounts"]}
    assert mounted == {volume["name"] for volume in code["volumes"]}
    assert re.fullmatch(r"/\w+", code["volumeMounts"][0]["mountPath"])
