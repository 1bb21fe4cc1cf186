"""Every documented reason has words of its own, and what nobody knows is shown as it is."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.slurm.documented import REASONS, REASONS_OF_SQUEUE

from dagster_slurm.slurm.reasons import Reason, ReasonCategory, documented_reasons, parse_reason

C = ReasonCategory
CATEGORIES = {
    C.QUEUE: "BurstBufferResources Licenses MaxPoweredUpNodes MpiPortsBusy NvidiaImexChannels PowerNotAvail "
    "PowerReserved Priority Resources",
    C.TIME: "BeginTime Reservation",
    C.DEPENDENCY: "Dependency",
    C.NODES: "BlockFreeAction BlockMaxError Constraints FrontEndDown PartitionDown PartitionInactive ReqNodeNotAvail",
    C.SLURM: "BurstBufferStageIn Cleaning FedJobLock InvaildReason InvalidReason None Prolog",
    C.HELD: "BurstBufferOperation JobHeldAdmin JobHeldUser JobHoldMaxRequeue ReservationDeleted",
    C.ENDED: "DeadLine InactiveLimit JobLaunchFailure NodeDown NonZeroExitCode OutOfMemory RaisedSignal SystemFailure "
    "TimeLimit",
}
# What a job asks for alone; every other limit is one that it shares with other jobs.
NEVER = re.compile(
    r"(AccountNotAllowed|BadConstraints|DependencyNeverSatisfied|InvalidAccount|InvalidQOS|MaxMemPerLimit|PartitionConfig"
    r"|PartitionNodeLimit|PartitionTimeLimit|QOSNotAllowed|ReservationInvalid|SchedDefer"
    r"|(Assoc|QOS)Max\w+Per(Job|Node)(Limit)?|QOSMin\w+)"
)
PRINTER = Path(__file__).resolve().parents[3] / "scripts" / "print_reasons.py"
LIBRARY = next(Path("/usr/lib").glob("*/slurm-wlm/libslurmfull.so"), None)
RECORDED = sorted((Path(__file__).resolve().parents[2] / "recorded").glob("*/reasons.txt"))


@pytest.mark.parametrize("code", REASONS)
def test_every_documented_reason_is_known(code: str) -> None:
    reason = parse_reason(code)
    assert reason.is_known, code
    assert (reason.code, reason.detail) == (code, None)
    listed = next((category for category, codes in CATEGORIES.items() if code in codes.split()), None)
    assert reason.category is (listed or (C.NEVER if NEVER.fullmatch(code) else C.LIMIT))
    for text in (reason.words, reason.ends):
        assert text[0].islower() or text.startswith(("`", "Slurm", "CPU"))
        assert not text.endswith(".")
    for spelling in (f"({code})", f" {code} ", code.lower(), code.upper()):
        assert parse_reason(spelling).words == reason.words


@pytest.mark.parametrize("code", REASONS_OF_SQUEUE)
def test_every_reason_of_the_manual_is_known(code: str) -> None:
    family = [each for each in REASONS if fnmatch.fnmatchcase(each, code)] if "*" in code else [code]
    assert family
    assert all(parse_reason(each).is_known for each in family)


def assert_all_are_known(printed: list[str]) -> None:
    assert len(printed) > 150
    assert [code for code in printed if code not in REASONS or not parse_reason(code).is_known] == []


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_every_reason_that_a_release_can_print_is_known(path: Path) -> None:
    assert_all_are_known(path.read_text(encoding="ascii").split())


@pytest.mark.skipif(LIBRARY is None, reason="Slurm is not installed here")
def test_every_reason_that_the_installed_slurm_can_print_is_known() -> None:
    done = subprocess.run([sys.executable, str(PRINTER), str(LIBRARY)], capture_output=True, text=True, check=True)
    assert_all_are_known(done.stdout.split())


def test_the_table_has_no_reason_that_is_nowhere_documented() -> None:
    assert set(documented_reasons()) - {code.lower() for code in REASONS} == {"waitingforscheduling"}


def test_no_two_limits_say_the_same() -> None:
    limits = [code for code in REASONS if re.match(r"(Assoc|QOS|Max)(Grp|Max|Min|\w+PerAccount)", code)]
    by_words: dict[str, set[str]] = {}
    for code in limits:
        by_words.setdefault(parse_reason(code).words, set()).add(code)
    assert len(limits) > 140
    assert [codes for codes in by_words.values() if len(codes) > 1] == []


NODES_TEXT = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"


@pytest.mark.parametrize(
    ("text", "code", "category", "words", "detail"),
    [
        (None, "None", C.SLURM, "not looked at it yet", None),
        ("", "None", C.SLURM, "not looked at it yet", None),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "ReqNodeNotAvail", C.NODES, "down, drained", "n1"),
        ("ReqNodeNotAvail,_UnavailableNodes:n[1-3],m7", "ReqNodeNotAvail", C.NODES, "down, drained", "n[1-3],m7"),
        ("(ReqNodeNotAvail,UnavailableNodes:n1)", "ReqNodeNotAvail", C.NODES, "down, drained", "n1"),
        ("ReqNodeNotAvail, UnavailableNodes:", "ReqNodeNotAvail", C.NODES, "in use, reserved", "UnavailableNodes:"),
        (
            "ReqNodeNotAvail, May be reserved for other job",
            "ReqNodeNotAvail",
            C.NODES,
            "reserved for another job",
            "ReqNodeNotAvail, May be reserved for other job",
        ),
        (
            "ReqNodeNotAvail, Reserved for maintenance",
            "ReqNodeNotAvail",
            C.NODES,
            "maintenance",
            "ReqNodeNotAvail, Reserved for maintenance",
        ),
        ("RaisedSignal:9(Killed)", "RaisedSignal", C.ENDED, "a signal ended it", "9(Killed)"),
        (NODES_TEXT, "Resources", C.NODES, "partitions of higher priority", NODES_TEXT),
        (NODES_TEXT.replace(" ", "_"), "Resources", C.NODES, "partitions of higher priority", NODES_TEXT),
        ("launch failed requeued held", "JobLaunchFailure", C.HELD, "launched", "launch failed requeued held"),
        (
            "launch failure limit exceeded requeued held",
            "JobLaunchFailure",
            C.HELD,
            "launched",
            "launch failure limit exceeded requeued held",
        ),
        (
            "user env retrieval failed requeued held",
            "JobLaunchFailure",
            C.HELD,
            "environment",
            "user env retrieval failed requeued held",
        ),
        ("job requeued in held state", "JobHeldUser", C.HELD, "requeued and is held", "job requeued in held state"),
        ("Reservation day was deleted", "ReservationDeleted", C.HELD, "deleted", "Reservation day was deleted"),
        (
            "Job's account not permitted to use this partition (gpu allows a not b)",
            "AccountNotAllowed",
            C.NEVER,
            "may not use its partition",
            "Job's account not permitted to use this partition (gpu allows a not b)",
        ),
        (
            "Job's QOS not known, so it can't use this partition (gpu allows a)",
            "QOSNotAllowed",
            C.NEVER,
            "does not allow its QOS",
            "Job's QOS not known, so it can't use this partition (gpu allows a)",
        ),
        ("burst buffer stage_in error", "BurstBufferOperation", C.HELD, "burst", "burst buffer stage_in error"),
        ("Resources, a site's own words", "Resources", C.QUEUE, "in use", "a site's own words"),
    ],
)
def test_details(text: str | None, code: str, category: ReasonCategory, words: str, detail: str | None) -> None:
    reason = parse_reason(text)
    assert (reason.code, reason.category, reason.detail) == (code, category, detail)
    assert words in reason.words


@pytest.mark.parametrize("text", ["SiteBudgetExceeded", "Waiting for the moon", "199", "A, B", "{job}"])
def test_what_nobody_knows_is_shown_as_it_is(text: str) -> None:
    reason = parse_reason(text)
    assert (reason.code, reason.category, reason.is_known) == (text, C.UNKNOWN, False)
    assert not reason.needs_action


def test_a_long_list_of_nodes_is_cut() -> None:
    detail = parse_reason("ReqNodeNotAvail, UnavailableNodes:" + ",".join(f"n{i}" for i in range(1000))).detail
    assert detail is not None
    assert detail.startswith("n0,n1,")
    assert len(detail) < 250


def test_action_is_needed_for_what_is_held_and_what_never_starts() -> None:
    needing = {code for code in REASONS if parse_reason(code).needs_action}
    assert {"JobHeldUser", "JobHeldAdmin", "DependencyNeverSatisfied", "InvalidQOS", "PartitionTimeLimit"} <= needing
    assert not needing & {"Resources", "Priority", "PartitionDown", "QOSMaxJobsPerUserLimit", "TimeLimit", "BeginTime"}


@given(st.text(max_size=60) | st.sampled_from(REASONS).flatmap(lambda code: st.just(code).map(lambda c: f"{c}, x:y")))
def test_any_text_gives_a_reason(text: str) -> None:
    reason = parse_reason(text)
    assert isinstance(reason, Reason)
    assert reason.code
    assert reason.words
    assert reason.ends


@given(st.sampled_from(REASONS), st.text(min_size=1).filter(str.strip))
def test_a_detail_does_not_hide_the_code(code: str, detail: str) -> None:
    reason = parse_reason(f"{code}, {detail}")
    assert reason.is_known
