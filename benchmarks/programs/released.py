"""Many assets, each one a job, with the released `dagster-slurm` and Dagster's multiprocess executor."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import BashLauncher, ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource

NUMBER = int(os.environ["NUMBER"])
PAYLOAD = Path(__file__).parent / os.environ["PAYLOAD"]


def made(number: int) -> dg.AssetsDefinition:
    @dg.asset(name=f"asset_{number}")
    def one(context: dg.AssetExecutionContext, compute: ComputeResource):
        return compute.run(context=context, payload_path=str(PAYLOAD)).get_materialize_result()

    return one


ssh = SSHConnectionResource(
    host=os.environ["SLURM_EDGE_NODE_HOST"],
    port=int(os.environ["SLURM_EDGE_NODE_PORT"]),
    user=os.environ["SLURM_EDGE_NODE_USER"],
    key_path=os.environ["SLURM_EDGE_NODE_KEY_PATH"],
    extra_opts=["-o", f"UserKnownHostsFile={os.environ['SLURM_EDGE_NODE_KNOWN_HOSTS_FILE']}"],
)
compute = ComputeResource(
    mode="slurm",
    slurm=SlurmResource(ssh=ssh, queue=SlurmQueueConfig(partition="compute", mem="50M", cpus=1, time_limit="00:10:00")),
    default_launcher=BashLauncher(),
    pre_deployed_env_path=os.environ["DEPLOYED_ENVIRONMENT"],
)
defs = dg.Definitions(
    assets=[made(number) for number in range(NUMBER)],
    jobs=[dg.define_asset_job("all", "*")],
    resources={"compute": compute},
    executor=dg.multiprocess_executor.configured({"max_concurrent": NUMBER}),
)
