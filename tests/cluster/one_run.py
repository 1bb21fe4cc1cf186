"""One Dagster run of one asset on the cluster, in a process of its own, started by a line on stdin.

usage: one_run.py PAYLOAD REMOTE_BASE ENVIRONMENT REPORT

The line is a JSON object, the payload's variables. Dagster's storage lies beside the report.
"""

import json
import logging
import sys
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource

VARIABLES: dict[str, str] = {}


@dg.asset
def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """What the payload of this process makes."""
    return compute.run(context, sys.argv[1], extra_env=VARIABLES).get_materialize_result()


def main() -> None:
    """Materialise it, and write down what came of it."""
    base, environment, report = sys.argv[2:]
    queue = SlurmQueueConfig(partition="compute", mem="100M", cpus=1, time_limit="00:05:00")
    cluster = SlurmResource(ssh=SSHConnectionResource.from_env(), queue=queue, remote_base=base)
    compute = ComputeResource(mode="slurm", slurm=cluster, pre_deployed_env_path=environment)
    print("ready", flush=True)
    VARIABLES.update(json.loads(sys.stdin.readline()))
    storage = Path(f"{report}.dagster")
    storage.mkdir()
    with dg.DagsterInstance.local_temp(str(storage)) as instance:
        result = dg.materialize([measured], resources={"compute": compute}, instance=instance, raise_on_error=False)
        entries = instance.all_logs(result.run_id)
        messages = [(logging.getLevelName(int(entry.level)), entry.user_message) for entry in entries]
        events = result.get_asset_materialization_events()
        metadata = {name: value.value for event in events for name, value in event.materialization.metadata.items()}
    Path(report).write_text(
        json.dumps({"success": result.success, "messages": messages, "metadata": metadata}, default=str)
    )


if __name__ == "__main__":
    main()
