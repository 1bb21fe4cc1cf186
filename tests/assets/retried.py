"""Jobs that a test executes, has interrupted, and executes again: what `execute_job` can reconstruct.

`SETTINGS` is given by the test; everything runs in its process.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_slurm import ComputeResource


@dataclass
class Settings:
    """What the assets do."""

    payload: Path = Path()
    other: Path | None = None
    make_compute: Callable[[], ComputeResource] = lambda: ComputeResource(mode="local")
    after: Callable[[int], None] = lambda body: None
    options: dict[str, object] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)


SETTINGS = Settings()


def _body(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    compute: ComputeResource = context.resources.compute
    SETTINGS.bodies.append(context.asset_key.to_user_string())
    run = compute.run(context, SETTINGS.payload, extra_slurm_opts=SETTINGS.options, **SETTINGS.call)
    result = run.get_materialize_result()
    if SETTINGS.other is not None:
        compute.run(context, SETTINGS.other)
    SETTINGS.after(len(SETTINGS.bodies))
    return result


@dg.asset(required_resource_keys={"compute"})
def measured(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Not retried by itself."""
    return _body(context)


@dg.asset(required_resource_keys={"compute"}, retry_policy=dg.RetryPolicy(max_retries=2))
def retried(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Retried by its policy."""
    return _body(context)


@dg.resource
def compute(_: dg.InitResourceContext) -> ComputeResource:
    """The test's, made anew for each run as in a new process; Dagster keeps what it has reconstructed once."""
    return SETTINGS.make_compute()


def job_of(name: str) -> dg.JobDefinition:
    """A job of one asset on the in-process executor."""
    job = dg.define_asset_job(name, dg.AssetSelection.assets(name), executor_def=dg.in_process_executor)
    definitions = dg.Definitions(assets=[measured, retried], jobs=[job], resources={"compute": compute})
    return definitions.get_job_def(name)


def measured_job() -> dg.JobDefinition:
    """Of the asset without a policy."""
    return job_of("measured")


def retried_job() -> dg.JobDefinition:
    """Of the asset with a policy."""
    return job_of("retried")
