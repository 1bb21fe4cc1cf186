"""Which process works on a run, as it says itself."""

import dagster as dg

from dagster_slurm.pipes.run_notes import leases_of, take_lease
from dagster_slurm.process_identity import ProcessIdentity


def test_a_function_that_is_called_directly_takes_no_lease() -> None:
    take_lease(None, None)
    with dg.DagsterInstance.ephemeral() as instance:
        take_lease(instance, None)


def test_a_lease_is_written_once() -> None:
    @dg.op
    def leased(context: dg.OpExecutionContext) -> None:
        take_lease(context.instance, context.run)
        take_lease(context.instance, context.run, step_key="leased")

    @dg.job
    def leasing() -> None:
        leased()

    with dg.DagsterInstance.ephemeral() as instance:
        result = leasing.execute_in_process(instance=instance)
        events = [entry for entry in instance.all_logs(result.run_id) if "is worked on by process" in entry.message]
        assert len(events) == 1
        assert leases_of(instance, result.run_id) == [ProcessIdentity.of_this_process()]
