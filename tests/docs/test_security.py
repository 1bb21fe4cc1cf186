"""docs/security.md: each line has its test, and nothing that the code makes is missing."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT
from tests.support.sources import parsed

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?!what \||--)(.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
SOURCE = ROOT / "src" / "dagster_slurm"
# What makes a file, a directory or a socket where others are, or a secret.
_MADE_BY_PYTHON = re.compile(
    r"\b(mkdtemp|mkstemp|NamedTemporaryFile|TemporaryFile|TemporaryDirectory|gettempdir|mkfifo|make_own|bind|mktemp)\("
)
_MADE_BY_SHELL = re.compile(r"\bmktemp -|/dev/urandom|\bumask\b|\bmkfifo\b|mkdir -m|/dev/shm/")
_OF_RUNS, _OF_BASE = "run directories and what lies in them", "`runs`, `env-cache`"
_TEMPORARY, _PORTS = "temporary directories and files", "ports of Ray and Spark"
# Each file that makes something, and how the line of the page begins that has it.
MAKERS: Mapping[str, str] = {
    "cluster/shared.py": "the directory in which processes share",
    "cluster_scripts/stores.sh": _OF_BASE,
    "cluster_scripts/submit.sh": _OF_RUNS,
    "doctor/world.py": _TEMPORARY,
    "environments/local_store.py": "the store of packages",
    "job/connection.py": "the directory in which processes share",
    "launchers/nodes.sh": "the directories of Ray, Spark and ranks",
    "launchers/ranks_hook.sh": "memory that ranks of MPI have left",
    "launchers/ray_program.py": _PORTS,
    "launchers/scratch.sh": "a scratch directory of a node",
    "launchers/spark.sh": "Spark's cluster",
    "launchers/spark_program.py": _PORTS,
    "launchers/torchrun_facts.py": "torchrun's rendezvous",
    "reconcile/start.py": "the settings of Dagster's instance",
    "session/clusters.sh": _OF_RUNS,
    "transport/login.py": _TEMPORARY,
    "transport/openssh.py": "the directory of shared connections",
    "transport/pool.py": "the directory of shared connections",
    "transport/scripts/channel.sh": _OF_RUNS,
    "transport/scripts/together.sh": "small scripts that are sent together",
    "transport/ssh_connection.py": "the directory of shared connections",
    "work/here.py": _TEMPORARY,
}


def code(path: Path) -> str:
    """Of a script without its comments."""
    text = path.read_text(encoding="utf-8")
    return text if path.suffix == ".py" else re.sub(r"(?m)^\s*#.*$", "", text)


def test_every_place_that_makes_something_is_on_the_page() -> None:
    files = [path for path in sorted(SOURCE.rglob("*")) if path.suffix in (".py", ".sh")]
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in files
        if (_MADE_BY_PYTHON if path.suffix == ".py" else _MADE_BY_SHELL).search(code(path))
    }
    assert sorted(found - MAKERS.keys()) == []
    assert sorted(MAKERS.keys() - found) == []
    for beginning in MAKERS.values():
        assert any(what.startswith(beginning) for what, _, _ in ROWS), beginning


def test_there_are_rows() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize("test", sorted({name for *_, tests in ROWS for name in re.findall(r"`([^`]+)`", tests)}))
def test_each_named_test_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    tree = parsed(ROOT / "tests" / path)
    names = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert name in names if name else names


@pytest.mark.parametrize(("what", "tests"), [(what, tests) for what, _, tests in ROWS])
def test_each_line_has_a_test(what: str, tests: str) -> None:
    assert re.search(r"`[\w/]+\.py(::\w+)?`", tests), what
