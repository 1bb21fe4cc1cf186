"""What a project of 1.22 has to change, by its files; and its jobs, by their names."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.cli import main
from dagster_slurm.compat.in_flight import JOB_TAG, refuse_beside_job_of_1_22
from dagster_slurm.compat.move import Move, jobs_of_1_22
from dagster_slurm.compat.refused import PAGE
from dagster_slurm.compat.survey import notes_of, survey
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm.output import parse_squeue_of_user
from dagster_slurm.slurm.states import JobState

PAGE_TEXT = (Path(__file__).parents[3] / PAGE).read_text("utf-8")
HEADINGS = {line.lstrip("# ").lower().replace(" ", "-") for line in PAGE_TEXT.splitlines() if line.startswith("##")}
IMPORT = "from dagster_slurm import ComputeResource\n"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("from dagster_slurm import SlurmAllocation", "SlurmAllocation"),
        ("from dagster_slurm import wait_for_stable_ray_resources as wait", "wait_for_stable_ray_resources"),
        ("from dagster_slurm.ray import run_with_ray_reserve_topup", "run_with_ray_reserve_topup"),
        (
            "from dagster_slurm.helpers.env_packaging import pack_environment",
            "dagster_slurm.helpers.env_packaging.pack",
        ),
        ("from dagster_slurm.launchers.base import ExecutionPlan", "dagster_slurm.launchers.base.ExecutionPlan"),
        ("class Own(ComputeLauncher):\n    def prepare_execution(self): ...", "Own.prepare_execution"),
        ("ComputeResource(ray_head_allocation=make())", "ComputeResource(ray_head_allocation=...)"),
        ("SlurmPipesClient(slurm_resource=slurm, launcher=bash)", "SlurmPipesClient(launcher, slurm_resource)"),
        ("compute.get_pipes_client(context)", "get_pipes_client()"),
        ("slurm.set_auth_provider(provider)", "set_auth_provider()"),
        ("compute.run(context, path, None, {})", "run() with 4 arguments by position"),
        ("def (", "it cannot be read as Python"),
    ],
)
def test_what_has_to_change(line: str, what: str) -> None:
    (note,) = [each for each in notes_of(f"{IMPORT}{line}\n", "defs.py") if each.has_to_change]
    assert note.what.startswith(what)
    assert (note.path, note.line) == ("defs.py", 1 if "cannot be read" in what else 2)
    assert str(note).endswith(f"({PAGE}#{note.anchor})")
    assert note.anchor in HEADINGS


@pytest.mark.parametrize(
    "line",
    [
        "from dagster_slurm import SlurmStepDrained, SlurmAllocationEnded",
        "from dagster_slurm.config.environment import ExecutionMode",
        'ComputeResource(mode="slurm", session=None, allocation_scope=SlurmAllocationScope.ASSET, debug_mode=True)',
        'ComputeResource(mode=ExecutionMode.SLURM_SESSION, session=SlurmSessionResource(), allocation_scope="run")',
        "ComputeResource(enable_cluster_reuse=True, remote_pack_timeout=600)",
        "compute.run(context, path, launcher, extra_slurm_opts={})",
        "subprocess.run(a, b, c, d)",
        "class Own(ComputeLauncher):\n    def prepare_execution(self): ...\n    def plan(self, payload, place): ...",
        "from other.ray import run_with_ray_reserve_topup",
        "from . import SlurmAllocation",
    ],
)
def test_what_runs_unchanged(line: str) -> None:
    assert [each for each in notes_of(f"{IMPORT}{line}\n", "defs.py") if each.has_to_change] == []


@given(st.text(max_size=60))
def test_any_text_can_be_looked_at(text: str) -> None:
    notes_of(text, "a.py")


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(f"{IMPORT}from dagster_slurm import SlurmAllocation\n")
    (tmp_path / "src" / "other.py").write_text("def (\n")
    (tmp_path / "pyproject.toml").write_text('dependencies = ["dagster-slurm[ray]>=1.5"]\n# dagster-slurm==1.22\n')
    (tmp_path / "requirements-dev.txt").write_text("dagster-slurm\ndagster-slurm==1.22.0\n")
    (tmp_path / "pixi.toml").write_text('dagster-slurm = ">=1.22,<2"\n')
    for inner in (".venv", "env", "node_modules"):
        (tmp_path / inner).mkdir()
        (tmp_path / inner / "a.py").write_text("from dagster_slurm import SlurmAllocation\n")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    found = [(note.path, note.line, note.what.split(",")[0]) for note in survey(tmp_path)]
    assert found == [
        ("pixi.toml", 1, "it asks for dagster-slurm 1.22"),
        ("pyproject.toml", 1, "it asks for dagster-slurm 1.5"),
        ("requirements-dev.txt", 2, "it asks for dagster-slurm 1.22.0"),
        ("src/a.py", 2, "SlurmAllocation"),
    ]


def test_what_lies_beside_a_payload(tmp_path: Path) -> None:
    text = "import os, helper\nfrom package.sub import x\nimport helper\nfrom dagster_pipes import open_dagster_pipes\n"
    (tmp_path / "fit.py").write_text(text)
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "package").mkdir()
    notes = survey(tmp_path)
    assert [(note.line, note.what.split()[3], note.has_to_change) for note in notes] == [
        (1, "helper,", False),
        (2, "package,", False),
    ]
    assert {note.anchor for note in notes} <= HEADINGS


def queued(name: str, state: str = "RUNNING", job_id: str = "17") -> str:
    return f"gpu|1:00|1:00|2:00|1|2|1G|N/A|{job_id}|{job_id}|N/A|{state}|N/A|N/A|None|n1|{name}|/home/me\n"


def test_jobs_are_known_by_their_names() -> None:
    ours = "dagster_step-0123456789ab"
    lines = [queued("dagster_train"), queued("other"), queued(ours), queued(f"{ours}.1.0")]
    lines += [queued("dagster_fit", "PENDING", "18"), queued("dagster_old", "COMPLETED", "19")]
    assert jobs_of_1_22(parse_squeue_of_user("".join(lines))) == ("17 dagster_train RUNNING", "18 dagster_fit PENDING")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_EDGE_NODE_HOST", "SLURM_SSH_HOST", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "a.py").write_text(IMPORT)
    done = CliRunner().invoke(main, ["doctor", "--from-1.22", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("Nothing has to be changed in the files.")
    assert "SLURM_EDGE_NODE_HOST is not set" in done.output
    assert "DAGSTER_HOME is not set" in done.output
    (tmp_path / "a.py").write_text("from dagster_slurm.config.environment import ExecutionMode, Environment\n")
    done = CliRunner().invoke(main, ["doctor", "--from-1.22", str(tmp_path)])
    assert done.exit_code == 1
    assert "Has to be changed:\n  a.py:1: dagster_slurm.config.environment.Environment: it is refused" in done.output
    assert "may be written otherwise:\n  a.py:1: dagster_slurm.config.environment.ExecutionMode" in done.output
    done = CliRunner().invoke(main, ["doctor", "--json", "--from-1.22", str(tmp_path)])
    told = json.loads(done.output)
    assert (told["is_ready"], len(told["notes"]), told["jobs"], told["runs"]) == (False, 2, None, None)
    done = CliRunner().invoke(main, ["doctor", "--from-1.22", str(tmp_path / "none")])
    assert done.exit_code != 0
    assert "is not a directory" in done.output


def test_runs_that_wait_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SLURM_EDGE_NODE_HOST", raising=False)
    monkeypatch.delenv("SLURM_SSH_HOST", raising=False)
    with dg.DagsterInstance.get() as instance:
        for run_id, status in (("a" * 8, dg.DagsterRunStatus.STARTED), ("b" * 8, dg.DagsterRunStatus.SUCCESS)):
            instance.add_run(dg.DagsterRun("job", run_id=run_id, status=status, tags={JOB_TAG: "17"}))
    (tmp_path / "project").mkdir()
    done = CliRunner().invoke(main, ["doctor", "--from-1.22", str(tmp_path / "project")])
    assert f"Runs in progress with such a job:\n  {'a' * 8} waits for job 17\n" in done.output
    assert "b" * 8 not in done.output
    assert done.exit_code == 1


def test_jobs_alone_are_a_reason_to_wait() -> None:
    assert Move((), (), ()).is_ready
    assert not Move((), ("17 dagster_train RUNNING",), ()).is_ready


class TestARetryOfARunOf122:
    """No second job beside one that may still run."""

    @pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED])
    def test_it_is_refused_while_its_job_is_there(self, state: JobState) -> None:
        with pytest.raises(InvalidRequestError, match=f"^Slurm job 17 of .* is {state.value}: it is not") as refused:
            refuse(state, {JOB_TAG: "17"})
        assert "`scancel 17`" in str(refused.value.hint)
        assert (refused.value.host, refused.value.job_id) == ("login", "17")

    @pytest.mark.parametrize("state", [None, JobState.COMPLETED, JobState.FAILED])
    def test_one_that_has_ended_is_a_line_of_the_log(self, state: JobState | None) -> None:
        assert refuse(state, {JOB_TAG: "17"}) == [
            "Slurm job 17 of dagster-slurm 1.22, which this run has in its tags, has ended"
        ]

    @pytest.mark.parametrize(
        ("asset", "is_refused"), [("own", True), ('["own"]', True), ("own__x", False), ("other", False), ("", True)]
    )
    def test_the_job_of_another_asset_is_none_of_its_business(self, asset: str, is_refused: bool) -> None:
        tags = {JOB_TAG: "17", "dagster_slurm/asset_key": asset}
        if is_refused:
            with pytest.raises(InvalidRequestError):
                refuse(JobState.RUNNING, tags)
        else:
            assert refuse(JobState.RUNNING, tags) == []

    def test_what_is_no_id_is_passed_over(self) -> None:
        assert refuse(JobState.RUNNING, {JOB_TAG: "none"}) == []


def refuse(state: JobState | None, tags: dict[str, str]) -> list[str]:
    logged: list[str] = []
    step: Any = SimpleNamespace(asset_keys=(dg.AssetKey("own"),), log=SimpleNamespace(info=logged.append))
    known = {} if state is None else {"17": SimpleNamespace(state=state)}
    cluster: Any = SimpleNamespace(host="login", queue=lambda job_ids: known)
    refuse_beside_job_of_1_22(cluster, step, tags)
    return logged
