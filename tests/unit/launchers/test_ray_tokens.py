"""What the run's log says of who can use a Ray cluster."""

from __future__ import annotations

import subprocess

import pytest

from dagster_slurm.transport.shell import shell_file

PROGRAM = """
nodes_log() { echo "$1 $2"; }
nodes_log_page() { echo "PAGE $1 $2$3"; }
nodes_names=(n1) nodes_token=/run/token
ray_tell_dashboard "$1" n1:8265 /run/token
"""


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("2.52.0", "PAGE Ray's dashboard n1:8265 (token: cat /run/token)\n"),
        (
            "2.51.9",
            "WARNING Ray 2.51.9 knows no tokens (2.52 does): whoever reaches n1 can use this cluster\n"
            "PAGE Ray's dashboard n1:8265 (no token)\n",
        ),
    ],
)
def test_an_older_ray_is_named(version: str, said: str) -> None:
    script = shell_file("dagster_slurm.launchers", "ray.sh") + PROGRAM
    done = subprocess.run(["bash", "-c", script, "bash", version], capture_output=True, text=True, check=True)
    assert done.stdout == said
