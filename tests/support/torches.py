"""Which torch the tests of torchrun have: the real one, or a stand-in where that would bring gigabytes for GPUs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dagster_slurm.sandbox import Sandbox

TORCH = "torch==2.13.0"
STAND_IN = Path(__file__).parents[1] / "stand_ins" / "torch"
# Set to anything, the stand-in is taken whatever pip says.
FORCED = "TESTS_WITH_STAND_IN_FOR_TORCH"


@dataclass(frozen=True)
class Torch:
    """One on the cluster.

    Args:
        environment: The path of an environment that has it.
        title: What it is, for the table.
    """

    environment: str
    title: str

    @property
    def is_real(self) -> bool:
        return self.title != "a stand-in for torch"


def is_for_cpus(said: str) -> bool:
    """Whether pip, asked with `--dry-run`, would install something, and nothing called `nvidia-*`."""
    line = re.search(r"^Would install (.*)", said, re.MULTILINE)
    return line is not None and not any(name.startswith("nvidia-") for name in line[1].split())


def torch_on(sandbox: Sandbox) -> Torch:
    """The real one if it is for CPUs alone; otherwise the stand-in."""
    requirements = ["dagster-pipes", "numpy"]
    argv = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", TORCH]
    if not os.environ.get(FORCED) and is_for_cpus(
        subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    ):
        return Torch(sandbox.create_environment("torchrun", [*requirements, TORCH]), TORCH)
    path = sandbox.create_environment("torchrun-stand-in", requirements)
    (packages,) = Path(path).glob("lib/python*/site-packages")
    shutil.copytree(STAND_IN, packages / "torch", dirs_exist_ok=True)
    return Torch(path, "a stand-in for torch")
