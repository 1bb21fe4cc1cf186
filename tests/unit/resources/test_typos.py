"""A field that does not exist is refused by name, and not dropped."""

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from dagster_slurm import BashLauncher, ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource


@pytest.mark.parametrize(
    "make",
    [
        BashLauncher,
        lambda **typo: ComputeResource(mode="local", **typo),
        SlurmQueueConfig,
        SlurmResource,
        lambda **typo: SSHConnectionResource(host="login", user="me", **typo),
    ],
    ids=["BashLauncher", "ComputeResource", "SlurmQueueConfig", "SlurmResource", "SSHConnectionResource"],
)
def test_refused(make: Callable[..., object]) -> None:
    make()
    with pytest.raises(ValidationError, match="partitoin"):
        make(partitoin="gpu")
