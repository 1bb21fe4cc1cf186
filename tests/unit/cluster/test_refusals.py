"""What is said of a request that Slurm refuses: which option it is about, and what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.slurm_programs import Slurm

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import SubmissionRejectedError
from dagster_slurm.slurm.request import merge

NO_ACCOUNT = "allocation failure: Invalid account or account/partition combination specified\n"
SACCTMGR = """#!/bin/sh
echo 'Maintenance on Monday'
printf '%s\\n' physics biology
"""


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        # It was the partition that was blamed.
        ({"partition": "gpu"}, "(no account was asked for)"),
        ({"account": "chemistry"}, "(account 'chemistry')"),
        ({"account": "physics", "partition": "gpu"}, "(account 'physics')"),
    ],
)
def test_an_account_that_is_missing_or_not_good_for_the_partition(
    cluster: SlurmCluster, slurm: Slurm, options: dict[str, str], asked: str
) -> None:
    cluster.facts()
    sacctmgr = Path(slurm.directory, "sacctmgr")
    sacctmgr.write_text(SACCTMGR)
    sacctmgr.chmod(0o755)
    slurm.says("sbatch", status=1, error=NO_ACCOUNT)
    with pytest.raises(SubmissionRejectedError) as caught:
        cluster.check(merge(options))
    assert caught.value.message.endswith(asked)
    assert caught.value.hint == "Known to this user on the cluster: biology, physics."
