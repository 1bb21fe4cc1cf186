"""What an asset's call would do: the asset's own function, run until it calls the compute resource."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetKey,
    AssetsDefinition,
    DagsterError,
    DagsterInstance,
    InputContext,
    IOManager,
    IOManagerDefinition,
    JobDefinition,
    OutputContext,
    RepositoryDefinition,
)

from dagster_slurm.errors import ConfigurationError, DagsterSlurmError, InvalidRequestError
from dagster_slurm.pipes.dagster_runs import job_of_assets, load_repository
from dagster_slurm.pipes.step import PlanRefused, StepStopped, dry_run, stop
from dagster_slurm.resources.job_plan import JobPlan

_RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_SHOWN_FRAMES = -3


@dataclass(frozen=True)
class Partitions:
    """Which partitions of the asset; none for an asset without.

    Args:
        key: One of them.
        range: The first and the last of those of a single-run backfill.
    """

    key: str | None = None
    range: tuple[str, str] | None = None

    @property
    def tags(self) -> Mapping[str, str]:
        """The run tags by which Dagster hands a range to a run."""
        return dict(zip(_RANGE_TAGS, self.range, strict=True)) if self.range else {}


class _NoData(IOManager):
    """Stands in the place of every IO manager: a plan reads and writes nothing."""

    def load_input(self, context: InputContext) -> Any:
        upstream = context.asset_key.to_user_string() if context.has_asset_key else context.name
        stop(
            InvalidRequestError(
                f"The asset takes {upstream} as an argument, and a plan cannot load it",
                hint="Name it in `deps` and give the job its path; or call compute.plan(...) where you have the value.",
            )
        )

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        del context, obj


def plan_of_asset(
    code: Mapping[str, str | None],
    asset: str | None,
    partitions: Partitions,
    run_config: Mapping[str, Any] | None = None,
) -> JobPlan:
    """What the first call of the compute resource in an asset would do. What the asset does before it is done.

    Args:
        code: Where the code is: see `load_repository`.
        asset: The asset's key, with `/` between its parts; None for the only one.
        partitions: Which of its partitions.
        run_config: As the launchpad has it.

    Raises:
        ConfigurationError: The code cannot be loaded, or has no such asset.
        InvalidRequestError: The asset fails before the call, or makes none; or as `run`.
        DagsterSlurmError: As `ComputeResource.plan`.
    """
    with _told():
        repository = _repository(code)
        chosen = _chosen(repository, asset)
        _check_partitions(chosen, partitions)
        job = job_of_assets(repository, chosen.keys)
        try:
            with dry_run(), DagsterInstance.ephemeral() as instance:
                _execute(job, instance, partitions, run_config)
        except StepStopped as stopped:
            plan: JobPlan = stopped.plan
            return plan
        except PlanRefused as refused:
            raise refused.error from None
    raise InvalidRequestError(
        f"The asset {_name(chosen)} has ended without a call of the compute resource",
        hint="A plan is made of the first compute.run(...), run_partitions(...) or run_hetjob(...) in its function.",
    )


@contextmanager
def _told() -> Iterator[None]:
    """Leave stdout to the plan, and leave out what Dagster logs of a run that is none."""
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _repository(code: Mapping[str, str | None]) -> RepositoryDefinition:
    try:
        return load_repository(code)
    except DagsterError as error:
        raise ConfigurationError(f"The code cannot be loaded: {error}") from error


def _chosen(repository: RepositoryDefinition, asset: str | None) -> AssetsDefinition:
    found = {key: each for key, each in repository.assets_defs_by_key.items() if each.is_executable}
    names = sorted(key.to_user_string() for key in found)
    if asset is None:
        if len({id(each) for each in found.values()}) == 1:
            return next(iter(found.values()))
        raise ConfigurationError(
            f"There is not one asset but {len(names)}", hint=f"Name one with --asset: {', '.join(names)}."
        )
    key = AssetKey.from_user_string(asset)
    if key not in found:
        raise ConfigurationError(f"There is no asset {asset}", hint=f"There are: {', '.join(names) or 'none'}.")
    return found[key]


def _check_partitions(chosen: AssetsDefinition, partitions: Partitions) -> None:
    is_named = partitions.key is not None or partitions.range is not None
    if (chosen.partitions_def is not None) == is_named:
        return
    if not is_named:
        raise InvalidRequestError(
            f"The asset {_name(chosen)} is partitioned", hint="Name a partition: --partition KEY."
        )
    raise InvalidRequestError(f"The asset {_name(chosen)} has no partitions", hint="Leave it out.")


def _execute(
    job: JobDefinition,
    instance: DagsterInstance,
    partitions: Partitions,
    run_config: Mapping[str, Any] | None,
) -> None:
    managers = {key: _NoData() for key, each in job.resource_defs.items() if isinstance(each, IOManagerDefinition)}
    try:
        job.execute_in_process(
            run_config=run_config,
            instance=instance,
            partition_key=partitions.key,
            resources=managers,
            tags=partitions.tags,
        )
    except DagsterSlurmError:
        raise
    except DagsterError as error:
        raise InvalidRequestError(f"Dagster does not run the asset: {error}") from error
    except Exception as error:
        # The asset's own code may raise anything.
        said = "".join(traceback.format_exception(error, limit=_SHOWN_FRAMES, chain=False)).rstrip()
        raise InvalidRequestError(f"The asset failed before a call of the compute resource:\n{said}") from error


def _name(chosen: AssetsDefinition) -> str:
    return ", ".join(sorted(key.to_user_string() for key in chosen.keys))
