"""Which ends of a job are tried again within a call."""

from __future__ import annotations

from typing import Any

from dagster import ConfigurableResource
from pydantic import ConfigDict, Field

from dagster_slurm.job.retrying import RetryRules
from dagster_slurm.resources.field_types import NotNegative
from dagster_slurm.slurm.quantities import parse_memory_mib, parse_time_limit_seconds


class SlurmRetryPolicy(ConfigurableResource[Any]):
    """Tries a job again that was over its memory or its walltime, was preempted, or lost its node.

    A payload that fails by itself is not tried again. Each attempt is a job of its own and stands in the run's log with
    its reason; for Dagster it is one step.
    """

    # A typo in a field's name is refused, not dropped.
    model_config = ConfigDict(extra="forbid")

    max_retries: NotNegative = Field(default=3, description="How many attempts there may be after the first.")
    memory_factor: float = Field(default=2.0, description="What the memory grows by after out of memory.", ge=1)
    max_mem: str | None = Field(default=None, description="The most memory to ask for; `M` is MiB.")
    time_factor: float = Field(default=2.0, description="What the walltime grows by after a time limit.", ge=1)
    max_time_limit: str | None = Field(default=None, description="The longest walltime to ask for, as `time_limit`.")
    exclude_failed_nodes: bool = Field(default=True, description="Leave out nodes that have failed.")

    def rules(self) -> RetryRules:
        """The policy as plain values.

        Raises:
            InvalidQuantityError: `max_mem` or `max_time_limit` cannot be read.
        """
        return RetryRules(
            max_retries=self.max_retries,
            memory_factor=self.memory_factor,
            max_mem_mib=None if self.max_mem is None else parse_memory_mib(self.max_mem),
            time_factor=self.time_factor,
            max_time_limit_seconds=(
                None if self.max_time_limit is None else parse_time_limit_seconds(self.max_time_limit)
            ),
            exclude_failed_nodes=self.exclude_failed_nodes,
        )
