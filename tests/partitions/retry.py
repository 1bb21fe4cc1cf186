"""A re-execution from failure, in a process of its own: in this one Dagster keeps what it has loaded before."""

import sys

import dagster as dg

from tests.partitions.project import all_job


def main(run_id: str) -> int:
    """Retry a run; 0 if that succeeds."""
    with dg.DagsterInstance.get() as instance:
        parent = instance.get_run_by_id(run_id)
        tags = {key: value for key, value in parent.tags.items() if "partition_range" in key} if parent else {}
        options = dg.ReexecutionOptions.from_failure(run_id, instance)
        done = dg.execute_job(
            dg.reconstructable(all_job),
            instance=instance,
            reexecution_options=options,
            raise_on_error=False,
            tags=tags,
        )
        return 0 if done.success else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
