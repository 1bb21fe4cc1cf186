"""The demo, as its user sees it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox
from tests.docs.markdown import READERS, ROOT
from tests.support import forked, graphql
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

ASSETS = ["elevations", "viewsheds", "lookouts"]
QUERY = """{
  runsOrError { ... on Runs { results { runId status } } }
  assetsOrError { ... on AssetConnection { nodes {
    key { path } assetMaterializations(limit: 1) { metadataEntries { label ... on MarkdownMetadataEntry { mdStr } } }
  } } }
}"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def output(named_by_a_reader: dict[str, str], home: Path) -> str:
    """What the demo prints, run for the second time: it can be run twice."""
    del named_by_a_reader  # it is in the environment
    _run_demo(home)
    return _run_demo(home, python=str(forked.programs() / "python"))


def _run_demo(home: Path, *prefix: str, python: str = sys.executable) -> str:
    """Run it, with Python itself or with the one that forks."""
    argv = [*prefix, python, str(ROOT / "scripts" / "demo.py"), "--home", str(home)]
    done = subprocess.run(
        argv, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout


def _rows(output: str, first: str) -> list[dict[str, str]]:
    """The rows of the table whose header begins with `first`; two blanks and more are between columns."""
    lines = output.splitlines()
    at = next(number for number, line in enumerate(lines) if re.match(first, line))
    header = re.split(r"\s{2,}", lines[at])
    rows = (re.split(r"\s{2,}", line) for line in lines[at + 2 : at + 2 + len(ASSETS)])
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.cluster
@pytest.mark.xdist_group(READERS)
def test_each_asset_is_shown_here_and_there(output: str) -> None:
    here, there = _rows(output, "asset +seconds"), _rows(output, "asset +job")
    assert [row["asset"] for row in here] == [row["asset"] for row in there] == ASSETS
    assert [row["result"] for row in here] == [row["result"] for row in there]
    for row in [*here, *there]:
        assert re.fullmatch(r"\d+ %", row["CPU used"])
        # Python alone has some; a job's was 3 when Slurm had told it.
        assert int(row["memory"].removesuffix(" MiB")) >= 6
    for row in there:
        assert row["state"] == "COMPLETED"
        assert re.fullmatch(r"n\d", row["node"])
        assert re.fullmatch(r"\d+ s", row["elapsed"])
        assert re.fullmatch(r"\d+ s", row["queue wait"])


@pytest.mark.cluster
@pytest.mark.xdist_group(READERS)
def test_the_jobs_are_in_the_accounting(output: str) -> None:
    jobs = [row["job"] for row in _rows(output, "asset +job")]
    asked = ["sacct", "-X", "-n", "-P", "-o", "JobID,State,AllocCPUS", "-j", ",".join(jobs)]
    # `viewsheds` asks for 4 in its metadata.
    expected = [f"{job}|COMPLETED|{cpus}" for job, cpus in zip(jobs, (2, 4, 2), strict=True)]
    eventually(lambda: Sandbox().run(asked).stdout.splitlines() == expected, "what the accounting knows")
    assert all(re.search(rf"^{job} +{name}-", output, re.MULTILINE) for job, name in zip(jobs, ASSETS, strict=True))


@pytest.mark.cluster
@pytest.mark.xdist_group(READERS)
def test_the_output_is_short(output: str) -> None:
    assert len(output.splitlines()) < 45
    assert "DEBUG" not in output


@pytest.mark.cluster
@pytest.mark.xdist_group(READERS)
def test_the_printed_command_opens_the_ui_on_these_runs(output: str, home: Path) -> None:
    command = next(line.strip() for line in output.splitlines() if " dev " in line)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DAGSTER_"))}
    command = command.replace("&& ", "&& exec ")
    with graphql.served(command, cwd=Path("/"), env=inherited, log=home / "dev.log", assets=len(ASSETS)) as port:
        answer = graphql.ask(port, QUERY)
    runs = answer["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"] * 4  # here and there, twice
    assets = {node["key"]["path"][0]: node for node in answer["assetsOrError"]["nodes"]}
    assert sorted(assets) == sorted(ASSETS)
    entries = assets["lookouts"]["assetMaterializations"][0]["metadataEntries"]
    (image,) = [entry["mdStr"] for entry in entries if entry["label"] == "map"]
    assert image.startswith("![lookouts](data:image/png;base64,iVBOR")


@pytest.mark.all_faults
def test_without_a_cluster_it_shows_the_local_part_and_says_why(tmp_path: Path) -> None:
    # A namespace in which this user is not root; files stay this user's own.
    prefix = ("unshare", "--user", "--map-user=1000") if os.geteuid() == 0 else ()
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine has no user namespaces")
    output = _run_demo(tmp_path, *prefix)
    assert [row["asset"] for row in _rows(output, "asset +seconds")] == ASSETS
    assert "Left out: the same assets on a Slurm cluster. The sandbox must be run as root." in output
    assert " dev " in output
