"""What a payload writes where the Pipes library should: no message fails the work, and none vanishes."""

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest

from dagster_slurm import SlurmMetric, SlurmMetricsContext, SlurmResource
from dagster_slurm.pipes import partition_results
from dagster_slurm.pipes.partition_results import COLLECTOR_FAULT
from dagster_slurm.pipes.session import StepPipes
from dagster_slurm.resources import settings
from dagster_slurm.resources.settings import metadata_of


def message(method: str, **params: object) -> bytes:
    return json.dumps({"__dagster_pipes_version": "0.1", "method": method, "params": params}).encode()


def reported(value: int, key: str = "tides") -> bytes:
    metadata = {"value": {"raw_value": value, "type": "int"}}
    return message("report_asset_materialization", asset_key=key, metadata=metadata, data_version=None)


NONSENSE = [
    message("no_such_method"),
    message("log", message="x", level="no such level"),
    message("report_asset_materialization", asset_key="tides"),
    message("report_asset_check", asset_key="tides", check_name="c", passed="yes", severity="ERROR", metadata={}),
    b'{"method": "log"}',
    b"[1]",
    b"null",
    b"no JSON \xff\xfe",
    b"[" * 200_000,
    b'{"a":' * 200_000,
]


def taken(lines: Sequence[bytes], *, partition: str = "") -> tuple[dg.ExecuteInProcessResult, list[dict[str, Any]]]:
    """What a step makes of such messages."""
    found: list[dict[str, Any]] = []

    @dg.asset(name="tides")
    def asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        pipes = StepPipes(context.op_execution_context)
        session = pipes.session(partition, messages_path="/messages", logs=cast(Any, None))
        session.take("messages", b"".join(line + b"\n" for line in lines))
        session.reader.finish()
        (result,) = session.pipes.get_results()
        assert isinstance(result, dg.MaterializeResult)
        found.append(dict(result.metadata or {}))
        return result

    with dg.instance_for_test() as instance:
        return dg.materialize([asset], instance=instance, raise_on_error=False), found


@pytest.mark.parametrize("partition", ["", "2026-01-01"], ids=["one", "one of many"])
def test_nonsense_is_passed_over_and_named(partition: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A message nested 200,000 deep failed the step, and every retry of it, while its job went on."""
    result, found = taken([reported(1), *NONSENSE, reported(2)], partition=partition)
    assert result.success
    assert found[0]["value"].value == 2
    said = capfd.readouterr().err
    assert said.count("A message of the payload was passed over") == len(NONSENSE)
    assert "no_such_method" in said


def test_a_job_that_was_requeued_reports_anew(capfd: pytest.CaptureFixture[str]) -> None:
    """The step failed: "Multiple materialize results returned"."""
    result, found = taken([reported(1), reported(2)])
    assert result.success
    assert [each["value"].value for each in found] == [2]


OUTCOME: Any = SimpleNamespace(job_id="17", ended=None, request=None, connection=None)


class TestMetricsCollector:
    """The job has succeeded, whatever a collector does."""

    @pytest.fixture(autouse=True)
    def _figures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (partition_results, settings):
            monkeypatch.setattr(module, "outcome_metadata", lambda outcome: {"slurm_job_id": 17, "node_hours": 2})

    @pytest.mark.parametrize(
        ("own", "expected", "fault"),
        [
            ({"mine": 1}, {"mine": 1}, ""),
            ({"mine": 1, "odd": object()}, {"mine": 1}, "'odd' cannot be metadata"),
            # The figures that jobs are looked up by.
            ({"slurm_job_id": 18, "mine": 1}, {"mine": 1}, "'slurm_job_id' is a figure"),
            ({7: 1}, {}, "7 cannot be metadata"),
            (7, {}, "TypeError"),
            (None, {}, "TypeError"),
        ],
    )
    def test_what_it_gives(self, own: object, expected: Mapping[str, Any], fault: str) -> None:
        metadata = dict(metadata_of(None, lambda outcome: cast(Any, own))(OUTCOME))
        assert fault in metadata.pop(COLLECTOR_FAULT, "")
        assert metadata == {"slurm_job_id": 17, "node_hours": 2, **expected}

    def test_what_it_raises(self) -> None:
        def collector(outcome: object) -> Mapping[str, Any]:
            raise ZeroDivisionError("by zero")

        metadata = metadata_of([SlurmMetric.JOB_ID], collector)(OUTCOME)
        assert metadata == {"slurm_job_id": 17, COLLECTOR_FAULT: "ZeroDivisionError: by zero"}

    @pytest.mark.parametrize("wanted", [[], [SlurmMetric.STATE]])
    def test_which_job_it_is_stays_whatever_is_chosen(self, wanted: list[SlurmMetric]) -> None:
        assert metadata_of(wanted, None)(OUTCOME) == {"slurm_job_id": 17}

    def test_what_it_sees(self) -> None:
        seen: list[SlurmMetricsContext] = []

        def collector(context: SlurmMetricsContext) -> Mapping[str, Any]:
            seen.append(context)
            return {}

        resource = SlurmResource()
        metadata_of(None, collector, resource)(OUTCOME)
        (context,) = seen
        assert (context.job_id, dict(context.default_metrics)) == (17, {"slurm_job_id": 17, "node_hours": 2})
        assert (context.slurm_resource, context.session_resource, context.step_id) == (resource, None, None)
