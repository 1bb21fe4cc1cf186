"""The component of a heterogeneous job: its assets, their payloads, and what it refuses; on this machine."""

import dagster as dg
import pytest

from tests.components.test_script_component import loaded, run

pytestmark = pytest.mark.process

TOGETHER = """
attributes:
  name: coupled
  on_failure: cancel
  run: {extra_env: {MODEL: harmonic}, extra_slurm_opts: {time_limit: "5 min"}}
  components:
    - asset: {key: ocean, group_name: tides, kinds: [python]}
      path: ocean.py
      requirements: {num_nodes: 2, cpus: 2, mem: 400M}
      launcher: {type: bash}
    - asset: {key: weather, deps: [given]}
      path: weather.sh
"""
OCEAN = """
import os
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    pipes.report_asset_materialization(metadata={"model": os.environ["MODEL"]})
"""


def test_its_assets_are_made_together(instance: dg.DagsterInstance) -> None:
    with loaded(TOGETHER, component="SlurmHetJobComponent", ocean__py=OCEAN, weather__sh="echo wind\n") as defs:
        graph = defs.resolve_asset_graph()
        assert defs.resolve_assets_def("ocean").op.name == "coupled"
        assert graph.get(dg.AssetKey("ocean")).to_asset_spec().kinds == {"python", "slurm"}
        assert [dep.asset_key for dep in graph.get(dg.AssetKey("weather")).to_asset_spec().deps] == [
            dg.AssetKey("given")
        ]
        result = run(defs, instance)
    assert result.success
    # Each is on record when its payload has ended.
    ocean, weather = (instance.get_latest_materialization_event(dg.AssetKey(key)) for key in ("ocean", "weather"))
    assert weather is not None
    assert ocean is not None
    assert ocean.asset_materialization is not None
    assert ocean.asset_materialization.metadata["model"].value == "harmonic"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TOGETHER.replace("run: {", "run: {max_parallel: 2, "), "has max_parallel"),
        (TOGETHER.replace("mem: 400M", "time_limit: 1:00:00"), "is the number 3600"),
        ("attributes: {components: []}", "at least 1 item"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(Exception, match="") as caught, loaded(text, component="SlurmHetJobComponent", ocean__py=OCEAN):
        pass
    error: BaseException | None = caught.value
    causes = []
    while error is not None:
        causes.append(str(error))
        error = error.__cause__ or error.__context__
    assert said in "\n".join(causes)
