"""The merge of layers: precedence, spellings, what excludes what, ranges."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidQuantityError, InvalidRequestError, UnknownOptionError
from dagster_slurm.slurm.options import SBATCH_OPTIONS
from dagster_slurm.slurm.request import JobRequest, merge, merge_named, parse_signal_before_timeout

RESOURCE: dict[str, object] = {
    "partition": "",
    "num_nodes": 1,
    "time_limit": "00:30:00",
    "cpus": 2,
    "gpus_per_node": 0,
    "mem": "4096M",
    "mem_per_cpu": None,
    "qos": None,
    "reservation": None,
    "account": None,
    "signal_before_timeout": None,
    "max_queue_hours": None,
}


def test_the_fields_of_the_queue_config() -> None:
    assert merge(RESOURCE) == JobRequest(cpus_per_task=2, mem_mib=4096, time_limit_seconds=1800)
    assert merge() == JobRequest()


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"nodes": 3}, {"nodes": 3}),
        ({"num_nodes": "3"}, {"nodes": 3}),
        ({"cpus_per_task": 8}, {"cpus_per_task": 8}),
        ({"cpus-per-task": 8, "cpus": "8"}, {"cpus_per_task": 8}),
        ({"time": "1-0"}, {"time_limit_seconds": 86400}),
        ({"time": "UNLIMITED"}, {"time_limit_seconds": None, "time_unlimited": True}),
        ({"time_limit": None}, {"time_limit_seconds": None}),
        ({"partition": "gpu"}, {"partition": "gpu"}),
        ({"partition": ["a", "b"]}, {"partition": "a,b"}),
        ({"mem_per_cpu": "1G"}, {"mem_mib": None, "mem_per_cpu_mib": 1024}),
        ({"mem_per_gpu": "8G"}, {"mem_mib": None, "options": {"mem-per-gpu": "8G"}}),
        ({"mem": "0"}, {"mem_mib": 0}),
        ({"mem": None}, {"mem_mib": None}),
        ({"max_queue_hours": 1.5}, {"max_queue_seconds": 5400}),
        ({"signal_before_timeout": "USR2@30"}, {"signal_before_timeout": "B:USR2@30"}),
        ({"gres": "gpu:2", "exclusive": True}, {"options": {"exclusive": True, "gres": "gpu:2"}}),
        ({"exclusive": False}, {}),
    ],
)
def test_a_later_layer_wins(layer: dict[str, object], expected: dict[str, object]) -> None:
    assert merge(RESOURCE, layer) == dataclasses.replace(merge(RESOURCE), **expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({}, {}),
        ({"built-in": {"cpus": 2}, "resource": {}}, {"cpus-per-task": "built-in"}),
        ({"built-in": {"cpus": 2}, "call": {"cpus_per_task": 4}}, {"cpus-per-task": "call"}),
        ({"resource": {"qos": "long"}, "asset metadata": {"qos": "long"}}, {"qos": "asset metadata"}),
        ({"resource": {"qos": "long"}, "launchpad": {"qos": None}}, {}),
        ({"built-in": {"mem": "4G"}, "resource": {"mem_per_cpu": "1G"}}, {"mem-per-cpu": "resource"}),
        ({"resource": {"mem_per_cpu": "1G"}, "call": {"mem": "4G"}}, {"mem": "call"}),
        ({"resource": {"requeue": True}, "call": {"no_requeue": True}}, {"no-requeue": "call"}),
        ({"launchpad": {"signal_before_timeout": 60, "max_queue_hours": 2}}, "launchpad"),
    ],
)
def test_where_an_option_comes_from(layers: dict[str, dict[str, object]], expected: dict[str, str] | str) -> None:
    request, sources = merge_named(layers)
    assert request == merge(*layers.values())
    own = {"signal": expected, "max-queue-hours": expected}
    assert sources == (own if isinstance(expected, str) else expected)


def test_three_layers_and_unsetting() -> None:
    request = merge(RESOURCE, {"qos": "long", "gres": "gpu:1", "mem_per_cpu": "1G"}, {"qos": None, "mem": "2G"})
    assert (request.qos, request.mem_mib, request.mem_per_cpu_mib) == (None, 2048, None)
    assert dict(request.options) == {"gres": "gpu:1"}


@pytest.mark.parametrize(
    ("options", "has_gpus"),
    [
        ({}, False),
        ({"gpus_per_node": 1}, True),
        ({"gpus_per_node": "a100:2"}, True),
        ({"gpus": "2"}, True),
        ({"gpus_per_task": "1"}, True),
        ({"gres": "gpu:a100:1"}, True),
        ({"gres": "license:1"}, False),
        ({"tres_per_task": "gres/gpu:1"}, True),
        ({"gpu_freq": "low"}, False),
    ],
)
def test_whether_gpus_are_asked_for(options: dict[str, object], has_gpus: bool) -> None:
    assert merge(RESOURCE, options).has_gpus is has_gpus


def test_what_stands_in_the_directives() -> None:
    request = merge(RESOURCE, {"signal_before_timeout": 60, "nice": 100, "hold": True, "max_queue_hours": 2})
    assert list(request.sbatch_options().items()) == [
        ("cpus-per-task", "2"),
        ("hold", True),
        ("mem", "4096M"),
        ("nice", "100"),
        ("nodes", "1"),
        ("signal", "B:USR1@60"),
        ("time", "00:30:00"),
    ]
    assert merge({"time": "UNLIMITED"}).sbatch_options()["time"] == "UNLIMITED"


def test_a_request_cannot_be_changed() -> None:
    request = merge({"gres": "gpu:1"})
    with pytest.raises(TypeError):
        request.options["gres"] = "gpu:2"  # type: ignore[index]


@pytest.mark.parametrize(
    ("layer", "error", "named"),
    [
        ({"nodes": 2, "num_nodes": 3}, InvalidRequestError, "num_nodes"),
        ({"mem": "1G", "mem_per_cpu": "1G"}, InvalidRequestError, "exclude each other"),
        ({"nodes": 0}, InvalidQuantityError, "at least 1"),
        ({"nodes": True}, InvalidQuantityError, "at least 1"),
        ({"nodes": "2-4"}, InvalidQuantityError, "whole number"),
        ({"cpus": 0}, InvalidQuantityError, "'cpus'"),
        ({"cpus": 1.5}, InvalidQuantityError, "1.5"),
        ({"gpus_per_node": -1}, InvalidQuantityError, "at least 0"),
        ({"time": "soon"}, InvalidQuantityError, "'soon'"),
        ({"mem": "4 gigs"}, InvalidQuantityError, "'mem' is not a valid amount of memory: '4 gigs'"),
        ({"time_limit": "soon"}, InvalidQuantityError, "'time_limit' is not a valid time limit: 'soon'"),
        ({"max_queue_hours": 0}, InvalidQuantityError, "max_queue_hours"),
        ({"max_queue_hours": "2"}, InvalidQuantityError, "hours"),
        ({"signal_before_timeout": "SOON"}, InvalidQuantityError, "USR1@60"),
        ({"partition": True}, InvalidRequestError, "partition"),
        ({"partition": "a\nb"}, InvalidRequestError, "one line"),
        ({"job_name": "x"}, InvalidRequestError, "name="),
        ({"signal": "USR1@60"}, InvalidRequestError, "signal_before_timeout"),
        ({"nosuch": 1}, UnknownOptionError, "nosuch"),
        ({"hold": "yes"}, InvalidRequestError, "True or False"),
    ],
)
def test_what_is_refused(layer: dict[str, object], error: type[InvalidRequestError], named: str) -> None:
    with pytest.raises(error) as caught:
        merge(RESOURCE, layer)
    assert named in str(caught.value)


@pytest.mark.parametrize("value", [60, "60", "USR1@60", "B:USR1@60", "SIGUSR1@60", "usr1@60"])
def test_signal_forms(value: object) -> None:
    assert parse_signal_before_timeout(value) == "B:USR1@60"


@pytest.mark.parametrize("value", [0, -1, 65536, "", "USR1", "R:USR1@60", "USR1@x", True, None, 1.5, "B:60"])
def test_signal_forms_that_are_refused(value: object) -> None:
    with pytest.raises(InvalidQuantityError):
        parse_signal_before_timeout(value)


KEYS = st.sampled_from([*RESOURCE, *SBATCH_OPTIONS]) | st.text(max_size=8)
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.lists(st.text(), max_size=2)
)


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_any_layers_give_a_request_or_the_typed_error(layers: list[dict[str, object]]) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert merge(*layers).sbatch_options()["nodes"]


@pytest.mark.parametrize(
    ("layer", "given"),
    [
        ({"mem": "4 GB", "time_limit": "2h"}, {"mem": "4096M", "time": "02:00:00"}),
        ({"mem_per_cpu": "512 MiB", "time": "1 hour 30 min"}, {"mem-per-cpu": "512M", "time": "01:30:00"}),
        (
            {"mem_per_gpu": "10 GiB", "tmp": "1TB", "time_min": "20 min"},
            {"mem-per-gpu": "10G", "tmp": "1T", "time-min": "00:20:00"},
        ),
        # What it does not read is sbatch's.
        (
            {"mem_per_gpu": "10240", "tmp": "much", "time_min": "1-0"},
            {"mem-per-gpu": "10240", "tmp": "much", "time-min": "1-0"},
        ),
    ],
    ids=str,
)
def test_quantities_as_people_write_them(layer: dict[str, object], given: dict[str, str]) -> None:
    options = merge(layer).sbatch_options()
    assert {name: options[name] for name in given} == given
