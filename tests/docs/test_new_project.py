"""A new project, as its user gets it: in an empty directory, with packages from the index and a sandbox of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import READERS, ROOT

pytestmark = [pytest.mark.process, pytest.mark.cluster, pytest.mark.all_faults, pytest.mark.xdist_group(READERS)]

DEMO = "dagster-slurm init demo\ncd demo\nmake demo\n"


@pytest.mark.timeout(900)
def test_a_new_project(named_by_a_reader: dict[str, str], tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DAGSTER_"))}
    path = f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}"
    variables = {**inherited, **named_by_a_reader, "PATH": path, "HOME": str(tmp_path)}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        variables.pop(name, None)
    done = subprocess.run(
        ["bash", "-euc", f"{DEMO}make check test"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    here, there = done.stdout.split("As Slurm jobs of 127.0.0.1:")
    assert "numbers    sum 499500\n" in here
    assert "products   product 3628800\n" in here
    assert re.search(r"numbers +sum 499500, slurm_job_id \d+, slurm_state COMPLETED\n", there)
    assert "All definitions loaded successfully." in there
    assert "2 passed" in there
    # And not what the index has by that name.
    program = "from importlib.metadata import distribution as d; print(d('dagster-slurm').read_text('direct_url.json'))"
    noted = subprocess.run(
        [str(tmp_path / "demo" / ".venv" / "bin" / "python"), "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(noted.stdout) == {"url": ROOT.as_uri(), "dir_info": {"editable": True}}
