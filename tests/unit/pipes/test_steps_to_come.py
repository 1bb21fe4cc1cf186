"""What is left of a run, by what Dagster has recorded of it."""

import dagster as dg

from dagster_slurm.pipes.dagster_private import steps_to_come


def test_what_waits_for_a_failure_does_not_come() -> None:
    seen: dict[str, list[str]] = {}

    def look(context: dg.AssetExecutionContext) -> None:
        seen[context.asset_key.to_user_string()] = list(steps_to_come(context.instance, context.run))

    @dg.asset
    def a(context: dg.AssetExecutionContext) -> None:
        look(context)

    # By name, each stands in front of what it waits for.
    @dg.asset(deps=["a"])
    def z(context: dg.AssetExecutionContext) -> None:
        look(context)
        raise dg.Failure("no")

    @dg.asset(deps=["z"])
    def y() -> None: ...

    @dg.asset(deps=["y"])
    def x() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([a, z, y, x], instance=instance, raise_on_error=False)
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert steps_to_come(instance, run) == []
    assert seen == {"a": ["a", "x", "y", "z"], "z": ["x", "y", "z"]}
