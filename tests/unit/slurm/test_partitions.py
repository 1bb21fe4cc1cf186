"""A partition for `partition="auto"`: what fits, which of those that fit, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm.partitions import Choice, Site, SitePartition, choose, gpus_of_node, parse_site, reason_against
from dagster_slurm.slurm.request import AUTO, merge

SAID = """\
partition PartitionName=short AllowGroups=ALL AllowQos=ALL MaxNodes=2 MaxTime=01:00:00 PriorityTier=5 State=UP
partition PartitionName=cpu AllowAccounts=ALL Default=YES MaxNodes=UNLIMITED MaxTime=1-00:00:00 PriorityTier=1 State=UP
partition PartitionName=long Default=NO MaxTime=7-00:00:00 PriorityTier=1 State=UP
partition PartitionName=fat Default=NO MaxTime=UNLIMITED MinNodes=1 PriorityTier=1 State=UP
partition PartitionName=gpu Default=NO MaxTime=2-00:00:00 MaxCPUsPerNode=64 State=UP
partition PartitionName=closed Default=NO MaxTime=UNLIMITED State=DRAIN
partition PartitionName=ours Default=NO MaxTime=UNLIMITED AllowGroups=physics AllowAccounts=p9 State=UP
nodes short|2|32|128000|(null)|(null)|idle
nodes cpu|10|64|256000|(null)|skylake,ib|mixed
nodes long|4|64|256000|(null)|ib|idle
nodes fat|1|64|2000000|(null)|(null)|idle
nodes gpu|3|128|512000|gpu:a100:4(S:0-1),nvme:1|ib|idle
nodes gpu|1|128|512000|gpu:h100:8|ib|idle
groups me staff
charge p1|p1||normal
charge p1|p2|gpu|gpu_qos
a line of a site
nodes torn|x
"""
SITE = parse_site(SAID)


def chosen(**options: Any) -> str:
    return choose(merge({"partition": AUTO, **options}), SITE).partition


@pytest.mark.parametrize(
    ("options", "partition"),
    [
        ({}, "cpu"),
        ({"time_limit": "2-00:00:00"}, "long"),
        ({"time_limit": "8-00:00:00"}, "fat"),
        ({"time_limit": "UNLIMITED"}, "fat"),
        ({"mem": "300G"}, "fat"),
        ({"mem": "1000G"}, "fat"),
        ({"cpus": 64, "mem_per_cpu": "4G"}, "fat"),
        ({"mem": 0}, "cpu"),
        ({"num_nodes": 11, "time_limit": "10:00"}, None),
        ({"num_nodes": 5}, "cpu"),
        ({"gpus_per_node": 1}, "gpu"),
        ({"gpus_per_node": "h100:8"}, "gpu"),
        ({"gres": "gpu:a100:4"}, "gpu"),
        ({"gres": "gpu:a100:5"}, None),
        ({"gpus_per_node": "h100:1", "num_nodes": 2}, None),
        ({"gpus": 12, "num_nodes": 3}, "gpu"),
        ({"ntasks_per_node": 65, "cpus": 1}, None),
        ({"ntasks": 128, "cpus": 1, "num_nodes": 2}, "cpu"),
        ({"constraint": "skylake"}, "cpu"),
        ({"constraint": "ib&fast"}, "cpu"),
        ({"constraint": "milan"}, None),
        ({"account": "p2"}, "gpu"),
        ({"account": "p2", "time_limit": "3-00:00:00"}, None),
    ],
)
def test_what_is_chosen(options: Mapping[str, Any], partition: str | None) -> None:
    if partition is not None:
        assert chosen(**options) == partition
        return
    with pytest.raises(InvalidRequestError) as caught:
        chosen(**options)
    assert all(f"{each.name}: " in str(caught.value) for each in SITE.partitions)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("short", {"time_limit": "2:00:00"}, "time limit 01:00:00, 02:00:00 asked for"),
        ("short", {"time_limit": "UNLIMITED"}, "time limit 01:00:00, none is asked for"),
        ("short", {"num_nodes": 3}, "at most 2 nodes, 3 asked for"),
        ("short", {"cpus": 33}, "nodes of 32 CPUs, 33 asked for"),
        ("cpu", {"mem": "300G"}, "nodes of 256000M, 307200M asked for"),
        ("cpu", {"gpus_per_node": 1}, "nodes without GPUs"),
        ("cpu", {"num_nodes": 11}, "such nodes it has 10, 11 asked for"),
        ("gpu", {"gpus_per_node": "h100:9"}, "nodes without h100 GPUs"),
        ("gpu", {"cpus": 65}, "at most 64 CPUs of a node, 65 asked for"),
        ("closed", {}, "it is DRAIN"),
        ("ours", {}, "it is for the groups physics"),
        ("cpu", {"account": "p2"}, "the account p2 is for gpu"),
        ("fat", {"constraint": "ib"}, "nodes without the feature ib"),
    ],
)
def test_why_not(name: str, options: Mapping[str, Any], reason: str) -> None:
    (partition,) = [each for each in SITE.partitions if each.name == name]
    assert reason_against(partition, merge(options), SITE) == reason


@pytest.mark.parametrize(
    ("fields", "options", "reason"),
    [
        ({"AllowAccounts": "p7,p9"}, {}, "it is for the account p7, p9, and p1 is charged"),
        ({"AllowAccounts": "p7"}, {"account": "p7"}, ""),
        ({"DenyAccounts": "p1"}, {}, "it is not for the account p1"),
        ({"AllowQos": "high"}, {}, "it is for the QOS high, and normal is charged"),
        ({"AllowQos": "high"}, {"qos": "high"}, ""),
        ({"DenyQos": "normal"}, {}, "it is not for the QOS normal"),
        ({"ReqResv": "YES"}, {}, "it is for reservations alone"),
        ({"ReqResv": "YES"}, {"reservation": "course"}, ""),
        ({"RootOnly": "YES"}, {}, "it is for root alone"),
        ({"MinNodes": "2"}, {}, "at least 2 nodes, 1 asked for"),
        ({"MaxMemPerNode": "1000"}, {"mem": "2G"}, "at most 1000M of a node, 2048M asked for"),
        ({"MaxTime": "no time"}, {}, ""),
    ],
)
def test_limits_of_a_partition(fields: Mapping[str, str], options: Mapping[str, Any], reason: str) -> None:
    assert reason_against(SitePartition("x", fields), merge(options), SITE) == reason


def test_what_the_accounting_does_not_tell_is_nothing_against_it() -> None:
    partition = SitePartition("x", {"AllowAccounts": "p9", "AllowQos": "high", "AllowGroups": "physics"})
    assert reason_against(partition, merge({}), Site((partition,))) == ""


class TestWhichOfThem:
    def test_the_reason_names_the_others(self) -> None:
        found = choose(merge({"time_limit": "5:00:00", "mem": "200G"}), SITE)
        assert found == Choice(
            "cpu",
            "the default, and the first of 4 that fit; others: long, fat, gpu; not closed: it is DRAIN; "
            "ours: it is for the groups physics; short: time limit 01:00:00, 05:00:00 asked for",
        )
        assert choose(merge({"mem": "1000G"}), SITE).reason.startswith("the only one that fits; not closed: ")

    def test_one_whose_nodes_are_away_comes_last(self) -> None:
        away = parse_site(SAID.replace("skylake,ib|mixed", "skylake,ib|drained"))
        assert choose(merge({"time_limit": "5:00:00"}), away).partition == "long"
        assert choose(merge({"constraint": "skylake"}), away).partition == "cpu"

    def test_priority_before_the_shortest_time(self) -> None:
        site = parse_site(SAID.replace("Default=YES", "Default=NO"))
        assert choose(merge({}), site).partition == "short"
        site = parse_site(SAID.replace("Default=YES", "Default=NO").replace("PriorityTier=5", "PriorityTier=1"))
        assert choose(merge({"time_limit": "30:00"}), site).partition == "short"

    def test_a_partition_of_that_name_is_one(self) -> None:
        site = replace(SITE, partitions=(*SITE.partitions, SitePartition(AUTO, {})))
        assert choose(merge({}), site).partition == AUTO

    def test_of_a_hundred_that_do_not_fit_some_are_named(self) -> None:
        site = Site(tuple(SitePartition(f"p{n:03}", {"State": "DOWN"}) for n in range(100)))
        with pytest.raises(InvalidRequestError, match="p007: it is DOWN; and 92 more"):
            choose(merge({}), site)
        with pytest.raises(InvalidRequestError, match="none is shown to this user"):
            choose(merge({}), Site(()))

    @given(st.permutations(SITE.partitions))
    def test_the_order_of_the_answer_counts_for_nothing(self, partitions: list[SitePartition]) -> None:
        request = merge({"time_limit": "30:00"})
        assert choose(request, replace(SITE, partitions=tuple(partitions))) == choose(request, SITE)


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ({}, {}),
        ({"gpus_per_node": 2}, {"": 2}),
        ({"gpus_per_node": "a100:2,h100:1"}, {"a100": 2, "h100": 1}),
        ({"gres": "gpu"}, {"": 1}),
        ({"gres": "gpu:2,license:1"}, {"": 2}),
        ({"gpus": 3, "num_nodes": 2}, {"": 2}),
    ],
)
def test_gpus_of_a_node(options: Mapping[str, Any], gpus: Mapping[str, int]) -> None:
    assert gpus_of_node(merge(options)) == gpus
