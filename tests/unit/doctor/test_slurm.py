"""Partitions, requests, versions and associations, as tables."""

from __future__ import annotations

import pytest

from dagster_slurm.doctor.partition import describe, judge_partition, judge_request
from dagster_slurm.doctor.slurm import Association, judge_associations, judge_commands, parse_associations
from dagster_slurm.slurm.partitions import NodeKind, SitePartition, parse_site
from dagster_slurm.slurm.request import merge

# scontrol --oneliner show partition, Slurm 22.05.8.
COMPUTE = (
    "PartitionName=compute AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A "
    "DefaultTime=01:00:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED "
    "MaxTime=1-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n[1-3] PriorityJobFactor=1 PriorityTier=1 "
    "RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=24 TotalNodes=3 "
    "SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED"
)
DEBUG = "PartitionName=debug Default=NO DefaultTime=NONE MaxTime=00:05:00 State=UP TotalNodes=3 DefMemPerCPU=1000"
# sinfo --exact --format='%R|%D|%c|%m|%G|%f|%T': nodes that are not alike have a line each.
NODES = """nodes compute|1|8|32000|(null)|(null)|idle
nodes compute|1|8|16000|(null)|(null)|idle
nodes compute|1|8|32000|(null)|(null)|down*
nodes debug|3|8|32000|(null)|(null)|mixed
"""


class TestPartition:
    site = parse_site(f"partition {COMPUTE}\npartition {DEBUG}\n{NODES}")
    known = {each.name: each for each in site.partitions}  # noqa: RUF012 - nobody changes it

    def test_what_is_told_of_one(self) -> None:
        assert describe(self.known["compute"]) == (
            "compute (the default) UP, nodes: 2 idle, 1 down*, time limit 1-00:00:00, default 01:00:00"
        )
        assert describe(self.known["debug"]) == (
            "debug UP, nodes: 3 mixed, time limit 00:05:00, memory for each CPU by default 1000"
        )

    @pytest.mark.parametrize(
        ("partition", "status", "said"),
        [
            ("compute", "ok", "compute (the default) UP"),
            ("", "ok", "compute (the default) UP"),
            ("debug,compute", "ok", "debug UP"),
            ("nope", "wrong", "no partition 'nope'"),
            ("compute,nope", "wrong", "no partition 'nope'"),
        ],
    )
    def test_its_name(self, partition: str, status: str, said: str) -> None:
        finding = judge_partition(merge({"partition": partition}), self.known)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"

    def test_no_default(self) -> None:
        finding = judge_partition(merge({}), {"debug": self.known["debug"]})
        assert (finding.status, "one of: debug" in finding.remedy) == ("wrong", True)

    @pytest.mark.parametrize(
        ("state", "nodes", "status"),
        [
            ("UP", {"idle": 1, "down*": 2}, "ok"),
            ("UP", {"mixed-": 1}, "ok"),
            ("UP", {"idle~": 4}, "ok"),
            ("UP", {"down*": 2, "drained": 1}, "warning"),
            ("UP", {}, "ok"),
            ("DOWN", {"idle": 1}, "warning"),
            ("DRAIN", {"idle": 1}, "wrong"),
            ("INACTIVE", {"idle": 1}, "wrong"),
        ],
    )
    def test_its_state(self, state: str, nodes: dict[str, int], status: str) -> None:
        kinds = tuple(NodeKind(count, 8, 16000, {}, frozenset(), of) for of, count in nodes.items())
        one = SitePartition("p", {"Default": "YES", "State": state}, kinds)
        assert judge_partition(merge({}), {"p": one}).status == status

    @pytest.mark.parametrize(
        ("options", "status"),
        [
            ({"partition": "compute", "time": "1-00:00:00"}, "ok"),
            ({"partition": "compute", "time": "1-00:00:01"}, "wrong"),
            ({"partition": "compute", "account": "research"}, "ok"),
            ({"partition": "compute", "account": "theirs"}, "warning"),
        ],
    )
    def test_what_slurm_takes_and_yet_does_not_start(self, options: dict[str, object], status: str) -> None:
        charged = [Association("c", "research", "", ("normal",))]
        assert judge_request(merge(options), self.known["compute"], charged).status == status

    def test_without_anything_to_compare_with(self) -> None:
        assert judge_request(merge({"account": "a", "time": "9-0"}), None, []).status == "ok"


class TestSlurm:
    @pytest.mark.parametrize(
        ("version", "status"),
        [
            (None, "warning"),
            ((19, 5), "warning"),
            ((20, 11), "ok"),
            ((22, 5), "ok"),
            ((25, 11), "ok"),
            ((26, 5), "ok"),
            ((26, 11), "warning"),
        ],
    )
    def test_versions(self, version: tuple[int, int] | None, status: str) -> None:
        finding = judge_commands({"version": ["slurm x"], "sbatch": ["/usr/bin/sbatch"]}, version)
        assert finding.status == status
        assert finding.found == "slurm x, /usr/bin/sbatch; without sacct, scontrol, sinfo, sacctmgr"

    def test_associations(self) -> None:
        found = parse_associations(["c|research||normal,high", "c|teaching|debug|", "", "broken"])
        assert found == [
            Association("c", "research", "", ("normal", "high")),
            Association("c", "teaching", "debug", ()),
        ]
        assert judge_associations(found).found == "accounts: research, teaching; QOS: normal, high"
        assert judge_associations([]).status == "warning"
