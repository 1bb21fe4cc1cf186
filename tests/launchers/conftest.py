"""What the tests of assets have, for launchers."""

from tests.assets.conftest import environment_path, payload, slurm

__all__ = ["environment_path", "payload", "slurm"]
