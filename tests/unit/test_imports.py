"""The house: imports go only down, and only the upper floors know Dagster."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from tests.support.sources import parsed

import dagster_slurm

PACKAGE = "dagster_slurm"
SOURCE = Path(dagster_slurm.__file__).parent
SANDBOX = "dagster_slurm_sandbox"
MAY_KNOW_THE_SANDBOX = {f"{PACKAGE}.{name}" for name in ("cli.sandbox", "sandbox", "sandbox.pytest_plugin")}

# CONTRIBUTING.md, "The house".
LEVELS = {
    "errors": 0,
    "descriptors": 0,
    "text": 0,
    "process_identity": 0,
    "version": 0,
    "slurm": 0,
    "transport": 1,
    "variables": 1,
    "profiles": 1,
    "cluster": 2,
    "cluster_scripts": 2,
    "run_directory": 2,
    "job": 3,
    "launchers": 3,
    "environments": 3,
    "session": 3,
    "staging": 3,
    "executor": 4,
    "clients": 4,
    "pipes": 4,
    "work": 4,
    "housekeeping": 5,
    "reconcile": 5,
    "resources": 5,
    "components": 5,
    "new_project": 5,
    "sandbox": 5,
    "doctor": 5,
    "cli": 5,
    "compat": 5,
    "": 5,
}
KNOWS_DAGSTER = {4, 5}
# By topic: what every run loads, its storage, an executor, and runs on record, which other processes ask for.
MAY_TOUCH_PRIVATE_DAGSTER = {
    f"{PACKAGE}.pipes.{name}" for name in ("dagster_private", "dagster_storage", "dagster_execution", "dagster_runs")
}
DAGSTER = {"dagster", "dagster_pipes", "dagster_shared"}
CONTEXTS = {"AssetCheckExecutionContext", "AssetExecutionContext", "OpExecutionContext", "StepContext", "op_context"}
# What users call, and what makes a `Step` and its sessions for them.
MAY_TAKE_A_CONTEXT = {
    f"{PACKAGE}.{name}"
    for name in (
        "clients",
        "components.hetjob",
        "components.script",
        "pipes.dagster_private",
        "pipes.session",
        "pipes.step",
        "resources.compute",
    )
}


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PACKAGES = (SOURCE, SOURCE.with_name(SANDBOX))
MODULES = {module_name(file): file for package in PACKAGES for file in sorted(package.rglob("*.py"))}


def is_of_the_sandbox(module: str) -> bool:
    return module.partition(".")[0] == SANDBOX


def room(module: str) -> str:
    return "sandbox" if is_of_the_sandbox(module) else module.partition(".")[2].partition(".")[0]


def level(module: str) -> int:
    assert room(module) in LEVELS, f"{module}: give the room {room(module)!r} a level, here and in CONTRIBUTING.md"
    return LEVELS[room(module)]


@cache
def imports(module: str) -> tuple[str, ...]:
    """Everything a module imports, at its head, within functions, and for types alone."""
    return tuple(found_imports(module))


def found_imports(module: str) -> Iterator[str]:
    for node in ast.walk(parsed(MODULES[module])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def names_in(file: Path) -> set[str]:
    return {node.id for node in ast.walk(parsed(file)) if isinstance(node, ast.Name)}


def is_private_dagster(name: str) -> bool:
    first, *rest = name.split(".")
    return first in DAGSTER and any(part.startswith("_") for part in rest)


@pytest.mark.parametrize("module", MODULES)
def test_no_arrow_points_up(module: str) -> None:
    # The table of lazily loaded public names is all that stands in the package itself.
    own = [name for name in imports(module) if name.startswith(f"{PACKAGE}.")]
    assert [name for name in own if level(name) > level(module)] == []


@pytest.mark.parametrize("module", [module for module in MODULES if is_of_the_sandbox(module)])
def test_the_sandbox_needs_the_ground_floor_alone(module: str) -> None:
    own = {name for name in imports(module) if name.split(".")[0] == PACKAGE}
    assert {name for name in own if level(name) > 0} == set()


def test_only_what_users_name_knows_the_sandbox() -> None:
    product = [module for module in MODULES if not is_of_the_sandbox(module)]
    assert {module for module in product if any(map(is_of_the_sandbox, imports(module)))} == MAY_KNOW_THE_SANDBOX


@pytest.mark.parametrize("module", MODULES)
def test_only_the_upper_floors_know_dagster(module: str) -> None:
    found = {name for name in imports(module) if name.split(".")[0] in DAGSTER}
    assert not found or level(module) in KNOWS_DAGSTER


@pytest.mark.parametrize("module", MODULES)
def test_private_dagster_is_touched_in_its_files_alone(module: str) -> None:
    found = {name for name in imports(module) if is_private_dagster(name)}
    assert not found or module in MAY_TOUCH_PRIVATE_DAGSTER


def test_no_imports_form_a_circle() -> None:
    # Those for types alone count: a circle of them is one of meaning.
    found = {module: {name for name in imports(module) if name in MODULES} - {module} for module in MODULES}
    TopologicalSorter(found).prepare()


def test_below_the_clients_nothing_takes_a_context_of_dagster() -> None:
    found = {module for module, file in MODULES.items() for name in names_in(file) if name in CONTEXTS}
    assert found == MAY_TAKE_A_CONTEXT


@pytest.mark.parametrize("module", [module for module in MODULES if level(module) == 0])
def test_the_ground_floor_needs_the_standard_library_alone(module: str) -> None:
    foreign = {name.split(".")[0] for name in imports(module)} - sys.stdlib_module_names - {PACKAGE}
    assert foreign == set()


def test_the_levels_are_those_of_contributing() -> None:
    text = (SOURCE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    told = {word.strip(" `/"): int(row[1]) for row in rows for word in row[2].split(",")}
    assert {name: LEVELS[name] for name in told} == told


def test_every_room_is_there() -> None:
    assert {room(module) for module in MODULES} == set(LEVELS)


def test_the_check_would_find_an_arrow_that_points_up() -> None:
    # The walk sees real arrows: some must exist, and in this direction only.
    assert f"{PACKAGE}.errors" in set(imports(f"{PACKAGE}.transport.openssh"))
    assert level(f"{PACKAGE}.clients") > level(f"{PACKAGE}.job.watcher") > level(f"{PACKAGE}.cluster")
    assert any(is_private_dagster(name) for name in imports(f"{PACKAGE}.pipes.dagster_private"))


LIGHT = [
    "cli",
    "cli.definitions",
    "cli.job_commands",
    "cli.jobs",
    "cli.project",
    "cli.set_up",
    "cli.upkeep",
    "doctor",
    "housekeeping.leftovers",
    "sandbox",
    "job.watcher",
    "launchers",
    "new_project.check",
    "transport",
    "slurm.output",
    "slurm.request",
]


@pytest.mark.parametrize("name", LIGHT)
def test_importing_it_does_not_load_dagster(name: str) -> None:
    program = f"import sys, {PACKAGE}.{name}; print(sorted({DAGSTER!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("argv", [["jobs", "--local"], ["login", "--check"]])
def test_dagster_is_loaded_only_where_it_is_asked(argv: list[str], tmp_path: Path) -> None:
    """Without DAGSTER_HOME; where there is no shell and no ssh, which ends the command when all is loaded."""
    variables = {"PATH": str(tmp_path), "HOME": str(tmp_path), "SLURM_EDGE_NODE_HOST": "login.invalid"}
    program = f"""
import sys
from dagster_slurm.cli import main
sys.argv[1:] = {argv!r}
try:
    main.main(standalone_mode=False)
except BaseException as error:
    print(type(error).__name__)
print({DAGSTER!r} & set(sys.modules), "{PACKAGE}.transport.channel" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=variables)
    assert done.stdout.splitlines()[-1] == "set() True"


_COMMAND = "import sys; from dagster_slurm.cli import main; sys.argv[1:] = {!r}; main.main(standalone_mode=False)"


@pytest.mark.parametrize(
    ("program", "most"),
    [
        ("from dagster_slurm import ComputeResource", 82),
        (_COMMAND.format(["--help"]), 4),
        (_COMMAND.format(["jobs", "--help"]), 5),
        (_COMMAND.format(["plan", "--help"]), 5),
    ],
    ids=["ComputeResource", "--help", "jobs --help", "plan --help"],
)
def test_what_a_start_loads_of_ours(program: str, most: int) -> None:
    """What one asset does not need is not imported: each process of a run, and each completion, would wait for it."""
    count = f"\nimport sys; print(sum(name.startswith({PACKAGE!r}) for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program + count], capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) <= most
