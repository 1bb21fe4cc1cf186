"""When torchrun is tried with torch and when with a stand-in; and that this one does what is tried with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.stand_ins.torch.distributed.run import free_port
from tests.support.torches import STAND_IN, is_for_cpus

# Recorded (shortened), pip 26.2: with an index that has torch for CPUs; with PyPI alone, on Linux; with neither.
FOR_CPUS = "Would install Jinja2-3.1.6 filelock-4.3.1 sympy-1.14.0 torch-2.13.0+cpu typing_extensions-4.16.0\n"
FOR_GPUS = (
    "Would install Jinja2-3.1.6 cuda-bindings-13.5.0 cuda-pathfinder-1.9.1 cuda-toolkit-13.0.3.0 filelock-4.3.1 "
    "nvidia-cublas-13.1.1.3 nvidia-cudnn-cu13-9.20.0.48 nvidia-nccl-cu13-2.29.7 torch-2.13.0 triton-3.7.1\n"
)
NOWHERE = ""


@pytest.mark.parametrize(
    ("said", "is_taken"),
    [
        pytest.param(FOR_CPUS, True, id="for CPUs"),
        pytest.param(FOR_GPUS, False, id="for GPUs"),
        pytest.param(NOWHERE, False, id="not to be had"),
        pytest.param(f"Looking in indexes: https://a.example/nvidia-torch/simple\n{FOR_CPUS}", True, id="its index"),
        pytest.param(f"Collecting nvidia-cublas\n{NOWHERE}", False, id="given up"),
    ],
)
def test_the_real_one_is_taken_if_it_brings_nothing_for_gpus(said: str, is_taken: bool) -> None:
    assert is_for_cpus(said) is is_taken


PAYLOAD = """
import os
import torch, torch.distributed as dist
dist.init_process_group("gloo")
rank, again = dist.get_rank(), os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
if rank == 2 and os.environ["FAILS"] == ("once" if not again else "always"):
    raise SystemExit(5)
total = torch.tensor([rank, 1.0])
dist.all_reduce(total)
dist.barrier()
# In one write, since the ranks have one file.
os.write(1, f"{rank} of {dist.get_world_size()} {total.tolist()} {again}\\n".encode())
dist.destroy_process_group()
"""


def agents(directory: Path, fails: str, *options: str, ids: tuple[str, ...] = ("a", "a", "a")) -> tuple[list[int], str]:
    """Three agents with two ranks each, on this machine: their ends, and what the ranks have printed."""
    payload = directory / "payload.py"
    payload.write_text(PAYLOAD)
    endpoint = f"127.0.0.1:{free_port()}"
    argv = [sys.executable, "-m", "torch.distributed.run", "--nnodes=3", "--nproc-per-node=2"]
    argv += [f"--rdzv-endpoint={endpoint}", *options]
    environment = {**os.environ, "PYTHONPATH": str(STAND_IN.parent), "FAILS": fails}
    with (directory / "out").open("w") as out:
        started = [
            subprocess.Popen(
                [*argv, f"--rdzv-id={each}", "--no-python", sys.executable, str(payload)],
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            for each in ids
        ]
        ends = [each.wait(60) for each in started]
    return ends, (directory / "out").read_text()


@pytest.mark.process
@pytest.mark.parametrize(("fails", "restarts"), [("never", 0), ("once", 1)])
def test_it_sums_over_all_ranks_and_starts_them_anew(tmp_path: Path, fails: str, restarts: int) -> None:
    ends, said = agents(tmp_path, fails, f"--max-restarts={restarts}")
    assert ends == [0, 0, 0], said
    whole = [line for line in said.splitlines() if " of 6 " in line]
    assert sorted(whole) == [f"{rank} of 6 [15.0, 6.0] {fails == 'once'}" for rank in range(6)]


@pytest.mark.process
def test_it_fails_with_a_rank_that_fails_for_good(tmp_path: Path) -> None:
    ends, said = agents(tmp_path, "once", "--max-restarts=0")
    assert ends == [1, 1, 1], said


@pytest.mark.process
def test_an_agent_of_another_start_is_not_let_in(tmp_path: Path) -> None:
    ends, said = agents(tmp_path, "never", "--rdzv-conf=join_timeout=2", ids=("a", "a", "former"))
    assert ends == [1, 1, 1], said
    assert " of 6 " not in said
