"""Run by the Python of an environment on the cluster, of whatever version that is."""

import sys

try:
    import dagster_pipes

    try:
        from importlib.metadata import version

        pipes = version("dagster-pipes")
    except Exception:  # noqa: BLE001 - a copy without metadata, or a Python before 3.8
        pipes = getattr(dagster_pipes, "__version__", "unknown")
except ImportError:
    pipes = "none"
sys.stdout.write("dagster-slurm python {} pipes {}\n".format(".".join(map(str, sys.version_info[:3])), pipes))
