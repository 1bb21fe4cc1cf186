"""Ranks of torch over three nodes, in `make faults` alone: of the real one where that brings no gigabytes for GPUs."""

import re
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, TorchrunLauncher
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, compute_log, failure_of, metadata_of, run_asset
from tests.faults.conftest import Record
from tests.faults.figures import Figures
from tests.support.torches import Torch, torch_on

from .conftest import left_of_ranks

pytestmark = [pytest.mark.cluster, pytest.mark.all_faults]
Write = Callable[..., Path]
Make = Callable[..., ComputeResource]

TRAIN = Path(__file__).parents[2] / "examples" / "training" / "payloads" / "train.py"
NODES = {"nodes": 3, "cpus": 2, "mem": "3G"}
SUM = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
print("sum", total.item(), "of", dist.get_world_size(), "on", os.environ["SLURMD_NODENAME"], flush=True)
dist.barrier()
dist.destroy_process_group()
"""
REQUEUE = "if rank == 0 and epoch == 9 and first == 0: os.system('scontrol requeue $SLURM_JOB_ID')\n"
# What the example does, with what the stand-in has.
SUMS = f"""
import os, pathlib, time
import torch, torch.distributed as dist
from dagster_pipes import open_dagster_pipes
dist.init_process_group("gloo")
print("begun", flush=True)
rank, checkpoint = dist.get_rank(), pathlib.Path(os.environ["DAGSTER_SLURM_CHECKPOINT_DIR"], "epoch")
first = int(checkpoint.read_text()) if checkpoint.exists() else 0
dist.barrier()
with open_dagster_pipes() as pipes:
    for epoch in range(first, pipes.get_extra("epochs")):
        {REQUEUE}
        total = torch.tensor([1.0])
        dist.all_reduce(total)
        if rank == 0:
            checkpoint.with_suffix(".new").write_text(str(epoch + 1))
            checkpoint.with_suffix(".new").replace(checkpoint)
        time.sleep(0.05)
    if rank == 0:
        pipes.report_asset_materialization(metadata={{"resumed_from": first}})
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def torch(sandbox: Sandbox) -> Torch:
    return torch_on(sandbox)


@pytest.fixture
def compute(slurm: Make, torch: Torch) -> ComputeResource:
    return slurm(pre_deployed_env_path=torch.environment)


def test_the_sum_over_three_nodes(
    compute: ComputeResource,
    instance: dg.DagsterInstance,
    payload: Write,
    sandbox: Sandbox,
    record: Record,
    torch: Torch,
) -> None:
    launcher = TorchrunLauncher(nproc_per_node=2)
    got = run_asset(asset_of(payload(SUM), launcher=launcher, extra_slurm_opts=NODES), compute, instance)
    assert got.success
    said = re.findall(r"^\[(\d)\] sum 21\.0 of 6 on (n\d)$", compute_log(got, instance), re.MULTILINE)
    assert sorted(rank for rank, _ in said) == [str(rank) for rank in range(6)]
    assert len({node for _, node in said}) == 3
    assert left_of_ranks(sandbox) == []
    end = f"SUCCESS, with {torch.title}"
    record("torchrun-sum", [Figures(1, 1, end)], ends=(end,))


def test_the_example(compute: ComputeResource, instance: dg.DagsterInstance, sandbox: Sandbox, torch: Torch) -> None:
    if not torch.is_real:
        pytest.skip("the example learns something, which needs the real torch")
    extras = {"points": 500, "epochs": 150}
    launcher = TorchrunLauncher(nproc_per_node=2)
    got = run_asset(asset_of(TRAIN, launcher=launcher, extras=extras, extra_slurm_opts=NODES), compute, instance)
    assert got.success
    found = metadata_of(got)
    assert (found["ranks"], found["resumed_from"]) == (6, 0)
    assert found["slope"] == pytest.approx(3, abs=0.2)
    assert "[5] rank 5 of 6: from epoch 0\n" in compute_log(got, instance)
    assert left_of_ranks(sandbox) == []


def requeued_example() -> str:
    text = TRAIN.read_text().replace("        slope, offset", f"            {REQUEUE}        slope, offset", 1)
    text = text.replace('init_process_group("gloo")', 'init_process_group("gloo"); print("begun", flush=True)', 1)
    # Threads of gloo may abort a Python that ends ("terminate called without an active exception", torch 2.13.0).
    return text + "    os._exit(0)\n"


def test_a_requeued_job_goes_on_from_its_checkpoint(
    compute: ComputeResource,
    instance: dg.DagsterInstance,
    payload: Write,
    sandbox: Sandbox,
    record: Record,
    torch: Torch,
) -> None:
    """It is requeued by its own hand, as preemption does it: a new rendezvous under the same id."""
    path = payload(requeued_example() if torch.is_real else SUMS, "train.py")
    launcher = TorchrunLauncher(nproc_per_node=1)
    options = {**NODES, "requeue": True}
    extras = {"points": 500, "epochs": 150}
    got = run_asset(asset_of(path, launcher=launcher, extras=extras, extra_slurm_opts=options), compute, instance)
    assert got.success
    assert metadata_of(got)["resumed_from"] >= 10
    executed = compute_log(got, instance).count("[0] begun\n")
    end = f"SUCCESS, with {torch.title}"
    record("torchrun-requeued", [Figures(executed, 1, end)], executed=2, jobs=1, ends=(end,))
    met = re.findall(r"rendezvous at (\S+)", compute_log(got, instance, "stderr"))
    assert len(met) == len(set(met)) == 2, "each start has an address of its own"
    assert left_of_ranks(sandbox) == []


def test_a_rank_that_fails_is_named(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload(
        "import os, time\nimport torch.distributed as dist\ndist.init_process_group('gloo')\n"
        "if dist.get_rank() == 2: raise SystemExit(5)\n"
        "dist.barrier()\n"
    )
    launcher = TorchrunLauncher(nproc_per_node=1, end_timeout=10)
    got = run_asset(asset_of(path, launcher=launcher, extra_slurm_opts=NODES), compute, instance)
    _, said = failure_of(got)
    assert re.search(r"rank \d on n\d was the first of 3 to fail: exit code \d+", said)


def test_all_ranks_start_anew(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload(
        "import os, time\nimport torch.distributed as dist\ndist.init_process_group('gloo')\n"
        "again = os.environ['TORCHELASTIC_RESTART_COUNT'] != '0'\n"
        "if dist.get_rank() == 2 and not again: raise SystemExit(5)\n"
        "dist.barrier()\nprint('again', again, flush=True)\n"
    )
    launcher = TorchrunLauncher(nproc_per_node=1, max_restarts=3)
    got = run_asset(asset_of(path, launcher=launcher, extra_slurm_opts=NODES), compute, instance)
    assert got.success
    # Each agent counts its own restarts.
    assert compute_log(got, instance).count("again") == 3


def test_without_torch_it_is_said_at_once(slurm: Make, instance: dg.DagsterInstance) -> None:
    got = run_asset(asset_of(TRAIN, launcher=TorchrunLauncher(), extra_slurm_opts=NODES), slurm(), instance)
    _, said = failure_of(got)
    assert "No module named 'torch' in the environment of" in said
    assert "`uv add torch`" in said
