"""A project as it is written for 1.22 that relays work from one allocation to the next: ten changed lines at most."""

import difflib
import importlib.util
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm.compat.survey import survey
from dagster_slurm.sandbox import Sandbox
from tests.support.instances import empty_instance

BEFORE = {
    "defs.py": """
import os
from pathlib import Path

import dagster as dg
from dagster_slurm import (
    ComputeResource, SlurmAllocationEnded, SlurmAllocationScope, SlurmQueueConfig, SlurmResource,
    SlurmRunAllocationConfig, SlurmStepDrained, SSHConnectionResource,
)

HERE = Path(__file__).parent


@dg.asset
def integrated(context: dg.AssetExecutionContext, compute: ComputeResource):
    session = compute.get_run_allocation_session(context)
    while True:
        try:
            run = compute.run(
                context=context,
                payload_path=str(HERE / "integrate.py"),
                extra_env={"STATE": os.environ["PROJECT_STATE"]},
            )
            return run.get_materialize_result()
        except SlurmStepDrained:
            session.promote_successor()
        except SlurmAllocationEnded:
            session.submit_successor()


slurm = SlurmResource(
    ssh=SSHConnectionResource.from_env(),
    queue=SlurmQueueConfig(partition="compute", cpus=1, mem="200M"),
    remote_base=os.environ["PROJECT_BASE"],
)
compute = ComputeResource(
    mode="slurm",
    slurm=slurm,
    allocation_scope=SlurmAllocationScope.RUN,
    run_allocation=SlurmRunAllocationConfig(
        num_nodes=1,
        cpus_per_task=1,
        mem="300M",
        time_limit="00:01:00",
    ),
)
defs = dg.Definitions(assets=[integrated], resources={"compute": compute})
""",
    "integrate.py": """
import os
import pathlib
import signal
import sys
import time

drained = []
signal.signal(signal.SIGTERM, lambda *_: drained.append(True))
state = pathlib.Path(os.environ["STATE"]).expanduser()
done = int(state.read_text()) if state.exists() else 0
while done < 40:
    time.sleep(1)
    done += 1
    state.write_text(str(done))
    if drained:
        sys.exit(143)
print("integrated", done)
""",
}
CHANGES = {
    "defs.py": [
        ("    session = compute.get_run_allocation_session(context)\n", ""),
        (
            '                extra_env={"STATE": os.environ["PROJECT_STATE"]},\n',
            '                extra_env={"STATE": os.environ["PROJECT_STATE"]},\n'
            '                extra_slurm_opts={"time_limit": "00:00:35"},\n'
            "                continue_exit_code=143,\n",
        ),
        ("            session.promote_successor()\n", "            raise\n"),
        ("            session.submit_successor()\n", "            raise\n"),
        (
            '        time_limit="00:01:00",\n',
            '        time_limit="00:01:00",\n        relay=True, relay_lead_minutes=0.7,\n',
        ),
    ],
    "integrate.py": [
        ("drained = []\n", "drained, began = [], time.time()\n"),
        ("    if drained:\n", "    if drained or time.time() > began + 25:\n"),
    ],
}


def after() -> dict[str, str]:
    """The project with its changes."""
    changed = dict(BEFORE)
    for name, pairs in CHANGES.items():
        for old, new in pairs:
            assert changed[name].count(old) == 1, old
            changed[name] = changed[name].replace(old, new)
    return changed


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


def test_at_most_ten_lines_are_changed(tmp_path: Path) -> None:
    changed = after()
    diff = [
        line
        for name, text in BEFORE.items()
        for line in difflib.ndiff(text.splitlines(), changed[name].splitlines())
        if line.startswith(("+ ", "- "))
    ]
    added, removed = ([line for line in diff if line.startswith(sign)] for sign in "+-")
    assert max(len(added), len(removed)) <= 10, "\n".join(diff)
    write(tmp_path, BEFORE)
    assert [note.what for note in survey(tmp_path) if note.has_to_change] == ["get_run_allocation_session()"]
    write(tmp_path, changed)
    assert [note for note in survey(tmp_path) if note.has_to_change] == []


@pytest.mark.cluster
@pytest.mark.process
@pytest.mark.all_faults
def test_it_goes_on_in_the_next_allocation(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in sandbox.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PROJECT_BASE", f"~/test-runs/{tmp_path.name}")
    monkeypatch.setenv("PROJECT_STATE", f"~/{tmp_path.name}.state")
    write(tmp_path, after())
    spec = importlib.util.spec_from_file_location("relayed_project", tmp_path / "defs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    defs: dg.Definitions = module.defs
    with empty_instance() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
        log = [entry.user_message for entry in instance.all_logs(result.run_id)]
    print("\n".join(log))
    assert result.success
    assert sum("as the allocation of the run's session" in line for line in log) == 2
