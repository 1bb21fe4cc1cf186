"""A field that does not exist is refused by name, and not dropped."""

from collections.abc import Callable

import pytest

from dagster_slurm import BashLauncher, ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.errors import UnknownArgumentError


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
    with pytest.raises(UnknownArgumentError, match=r"\w+ has no field 'partitoin'"):
        make(partitoin="gpu")


def test_the_nearest_is_named_and_no_field_that_is_missing() -> None:
    class Polite(BashLauncher):
        pass

    with pytest.raises(UnknownArgumentError) as caught:
        SSHConnectionResource(hst="login")  # type: ignore[call-arg]
    assert str(caught.value).startswith("SSHConnectionResource has no field 'hst'\nDid you mean 'host'? It has host, ")
    with pytest.raises(UnknownArgumentError, match="Polite has no field 'nice'"):
        Polite(nice=1)  # type: ignore[call-arg]
