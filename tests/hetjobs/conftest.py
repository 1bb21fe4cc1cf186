"""Steps of several components, and what is on record of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_slurm import ComputeResource
from tests.assets.conftest import failure_of, log_messages, payload, run_asset

__all__ = ["payload"]

# Reports where it is, and what it knows of the others; what else it does, `DOES_...` says in Python.
REPORTS = """
import os, pathlib, subprocess, sys, time
from dagster_pipes import open_dagster_pipes

kept = pathlib.Path(os.environ["DAGSTER_SLURM_CHECKPOINT_DIR"])
beside = kept.parent
asset = os.environ["DAGSTER_SLURM_ASSET_KEY"]

def until(name):
    while not (beside / name).exists():
        time.sleep(0.1)

with open_dagster_pipes() as pipes:
    assert pipes.asset_key == asset
    count = os.environ.get("SLURM_JOB_NUM_NODES")
    nodes = ["here"]
    if count:
        command = ["srun", f"--ntasks={count}", "--ntasks-per-node=1", "--overlap", "printenv", "SLURMD_NODENAME"]
        nodes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    print("this is", asset, flush=True)
    exec(os.environ.get(f"DOES_{asset}", ""))
    lists = {name[-1]: os.environ[name] for name in os.environ if name.startswith("DAGSTER_SLURM_HET_NODELIST_")}
    others = " ".join(lists[number] for number in sorted(lists))
    pipes.report_asset_materialization(metadata={"nodes": ",".join(sorted(nodes)), "others": others})
"""
FAILS_ONCE = "\nif not (kept / 'tried').exists():\n    (kept / 'tried').touch()\n    sys.exit(3)"


@dataclass(frozen=True)
class Ran:
    """A run of such a step."""

    result: dg.ExecuteInProcessResult
    instance: dg.DagsterInstance

    @property
    def made(self) -> dict[str, dict[str, Any]]:
        """The metadata that is on record, by asset."""
        found: dict[str, dict[str, Any]] = {}
        for entry in self.instance.all_logs(self.result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            made = entry.asset_materialization
            assert made
            name = made.asset_key.to_user_string()
            assert name not in found, f"{name} is on record twice"
            found[name] = {key: value.value for key, value in made.metadata.items()}
        return found

    @property
    def failure(self) -> str:
        """The text of the step's failure."""
        (event,) = self.result.filter_events(lambda event: event.is_step_failure)
        error = event.step_failure_data.error
        assert error is not None
        return error.message

    @property
    def cause(self) -> tuple[str, str]:
        """The class and the text of what made it fail."""
        return failure_of(self.result)

    @property
    def log(self) -> str:
        """Every message of the run."""
        return "\n".join(log_messages(self.result, self.instance))


def run_components(
    compute: ComputeResource,
    instance: dg.DagsterInstance,
    path: Path,
    components: Mapping[str, Mapping[str, object]],
    does: Mapping[str, str] | None = None,
    *,
    retries: int = 0,
    assets: Sequence[Any] | None = None,
    **call: Any,
) -> Ran:
    """Run one step.

    Args:
        compute: Where.
        instance: Dagster's.
        path: The payload of all.
        components: What each asks for.
        does: What each does besides, in Python.
        retries: Of the step.
        assets: What `run_hetjob` is given instead.
        call: What else it is given.
    """
    variables = {f"DOES_{name}": text for name, text in (does or {}).items()}
    given = assets or [(name, path, asked) for name, asked in components.items()]

    # A path with this name has had sbatch see more components than there are.
    @dg.multi_asset(
        name="of_a_hetjob",
        specs=[dg.AssetSpec(name) for name in components],
        retry_policy=dg.RetryPolicy(max_retries=retries) if retries else None,
    )
    def work(context: dg.AssetExecutionContext, compute: ComputeResource) -> Iterator[dg.MaterializeResult]:
        yield from compute.run_hetjob(context, given, extra_env=variables, **call).get_results()

    return Ran(run_asset(work, compute, instance), instance)
