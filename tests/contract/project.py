"""The work of the contract suite: the same units, whatever carries them."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import dagster as dg

from dagster_slurm import (
    ComputeResource,
    SlurmQueueConfig,
    SlurmResource,
    SlurmRetryPolicy,
    SlurmSessionResource,
    threaded_executor,
)

# What a process of its own is to do.
VARIABLE = "CONTRACT_WORK"
SESSION = {"num_nodes": 1, "cpus_per_task": 8, "mem": "2G", "time_limit": "00:10:00", "idle_timeout_seconds": 5}
QUEUE = {"partition": "compute", "mem": "60M", "cpus": 1, "time_limit": "00:05:00"}


@dataclass(frozen=True)
class Kind:
    """A kind of carrier.

    Args:
        name: For people.
        mode: Of the compute resource.
        is_array: Whether one call has all units, as its partitions. Otherwise each is a call of a step of its own.
        is_hetjob: Whether these are its assets instead.
    """

    name: str
    mode: str
    is_array: bool
    is_hetjob: bool = False

    @property
    def is_on_slurm(self) -> bool:
        """Whether there is a cluster."""
        return self.mode != "local"

    def __str__(self) -> str:
        return self.name

    @property
    def is_step(self) -> bool:
        """Whether it is a step of a session."""
        return self.mode == "slurm-session"


OWN = Kind("own job", "slurm", False)
ARRAY = Kind("job array", "slurm", True)
HET = Kind("het job", "slurm-hetjob", True, is_hetjob=True)
STEP = Kind("step", "slurm-session", False)
STEPS = Kind("steps", "slurm-session", True)
LOCAL = Kind("local run", "local", False)
LOCAL_PARTITIONS = Kind("local partitions", "local", True)
LOCAL_HET = Kind("local het job", "local", True, is_hetjob=True)


@dataclass(frozen=True)
class Work:
    """What is done.

    Args:
        kind: What carries it.
        units: Their names.
        payload: Path of the payload, which finds its unit's name in `UNIT`, `DAGSTER_SLURM_PARTITION_KEY` or
            `DAGSTER_SLURM_ASSET_KEY`.
        call: Further arguments of the call.
        resource: Further fields of the compute resource.
        retries: Of each step, by Dagster.
        die: Where the process kills itself, as `dying` names it; nowhere by default.
    """

    kind: Kind
    units: tuple[str, ...]
    payload: str
    call: Mapping[str, Any] = field(default_factory=dict)
    resource: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    die: str = ""

    def to_json(self) -> str:
        """As a variable."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Work":
        """What `to_json` wrote."""
        made = cls(**json.loads(text))
        return replace(made, kind=Kind(**made.kind), units=tuple(made.units))  # type: ignore[arg-type]

    def tags(self) -> dict[str, str]:
        """Of its runs."""
        if not self.kind.is_array or self.kind.is_hetjob:
            return {}
        start, end = self.units[0], self.units[-1]
        return {"dagster/asset_partition_range_start": start, "dagster/asset_partition_range_end": end}

    def definitions(self) -> dg.Definitions:
        """One asset of all units, or one for each."""
        assets = [_of_all(self)] if self.kind.is_array else [_of_one(self, unit) for unit in self.units]
        assets = [_of_components(self)] if self.kind.is_hetjob else assets
        return dg.Definitions(
            assets=assets,
            jobs=[dg.define_asset_job("everything", "*")],
            resources={"compute": self.compute()},
            executor=threaded_executor,
        )

    def job(self) -> dg.JobDefinition:
        """The job of everything."""
        return self.definitions().resolve_job_def("everything")

    def compute(self) -> ComputeResource:
        """Its compute resource."""
        fields = dict(self.resource)
        if "retry_policy" in fields:
            fields["retry_policy"] = SlurmRetryPolicy(**fields["retry_policy"])
        if self.kind.is_on_slurm:
            from_env = SlurmResource.from_env()
            queue = SlurmQueueConfig(**QUEUE)
            fields["slurm"] = SlurmResource(ssh=from_env.ssh, queue=queue, remote_base=from_env.remote_base)
        if self.kind.is_step:
            fields["session"] = SlurmSessionResource(**{**SESSION, **fields.get("session", {})})
        return ComputeResource(mode=self.kind.mode, **fields)


def _of_all(work: Work) -> dg.AssetsDefinition:
    @dg.asset(
        name="work",
        partitions_def=dg.StaticPartitionsDefinition(list(work.units)),
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=dg.RetryPolicy(work.retries) if work.retries else None,
    )
    def all_of_them(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        arm(work)
        return compute.run_partitions(context, work.payload, **work.call).get_materialize_result()

    return all_of_them


def _of_components(work: Work) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="work",
        specs=[dg.AssetSpec(unit) for unit in work.units],
        retry_policy=dg.RetryPolicy(work.retries) if work.retries else None,
    )
    def components(context: dg.AssetExecutionContext, compute: ComputeResource) -> Iterator[dg.MaterializeResult]:
        arm(work)
        yield from compute.run_hetjob(
            context, [(unit, work.payload, {}) for unit in work.units], **work.call
        ).get_results()

    return components


def _of_one(work: Work, unit: str) -> dg.AssetsDefinition:
    @dg.asset(name=unit, retry_policy=dg.RetryPolicy(work.retries) if work.retries else None)
    def one(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        arm(work)
        return compute.run(context, work.payload, extra_env={"UNIT": unit}, **work.call).get_materialize_result()

    return one


def arm(work: Work) -> None:
    """From now on, the process kills itself where the work says."""
    if work.die:
        # It looks at variables of the fault suite, which only processes of their own have.
        from tests.faults.project import dying
        from tests.faults.project.plan import Plan

        dying.arm(Plan("contract", die=work.die))


def job() -> dg.JobDefinition:
    """That of the work in the variable."""
    return Work.from_json(os.environ[VARIABLE]).job()
