"""What the cases at scale are, and how late a message was found to be in Dagster's log."""

import sys
from pathlib import Path

import dagster as dg
import pytest
from tests.support.instances import empty_instance
from tests.support.waiting import eventually

# The benchmarks are programs, which import what lies beside them.
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import at_scale
import common
from arrivals import Messages


def test_cases_are_chosen_by_name_and_size() -> None:
    assert common.cases_of([], at_scale.CASES) == list(at_scale.CASES)
    (chosen,) = common.cases_of(["messages=3"], at_scale.CASES)
    assert (chosen.title, chosen.payload) == ("messages=3", "messages.py")
    with pytest.raises(ValueError, match="there are messages, chatty"):
        common.cases_of(["mesages"], at_scale.CASES)


@pytest.mark.process
def test_messages_are_found_in_a_real_log() -> None:
    @dg.op
    def says(context: dg.OpExecutionContext) -> None:
        context.log.info("sent 1700000000.000001")
        context.log.info("done")

    @dg.job
    def one() -> None:
        says()

    with empty_instance() as instance:
        assert one.execute_in_process(instance=instance).success
        with Messages(Path(instance.root_directory)) as messages:
            eventually(lambda: messages.delays)
        assert messages.last_success_at() > 1_700_000_000
    assert len(messages.delays) == 1
    assert messages.delays[0] > 0
