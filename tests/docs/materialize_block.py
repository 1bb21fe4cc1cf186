"""Run a Python block, a file, as its reader would: execute it and, if it defines `defs`, run all that is in there."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import dagster as dg


def run_everything(defs: dg.Definitions) -> None:
    """Materialise every asset, evaluate every check and run every job, in this process."""
    with dg.DagsterInstance.local_temp() as instance:
        if defs.assets:
            job = defs.resolve_implicit_global_asset_job_def()
            result = job.execute_in_process(instance=instance, tags=tags_of(defs))
            assert result.success
            checks = result.get_asset_check_evaluations()
            assert all(check.passed for check in checks), checks
            for event in result.get_asset_materialization_events():
                print(event.asset_key, sorted(event.materialization.metadata))
        for each in defs.jobs or []:
            assert defs.resolve_job_def(each.name).execute_in_process(instance=instance).success


def tags_of(defs: dg.Definitions) -> dict[str, str]:
    """Those of a run of all partitions, if the assets have some."""
    found = [asset.partitions_def for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    keys = [definition.get_partition_keys() for definition in found if definition is not None]
    range_tag = "dagster/asset_partition_range_"
    return {f"{range_tag}start": keys[0][0], f"{range_tag}end": keys[0][-1]} if keys else {}


def main(path: str) -> None:
    sys.path.insert(0, "")
    names: dict[str, Any] = runpy.run_path(path)
    if "defs" in names:
        run_everything(names["defs"])


if __name__ == "__main__":
    main(sys.argv[1])
