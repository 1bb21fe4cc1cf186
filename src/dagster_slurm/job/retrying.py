"""What the next attempt asks for, and whether there is one: a fold over the ends of those before. Pure.

Nothing is counted in a process: whoever reads the outcomes computes the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dagster_slurm.cluster.description import EndMark
from dagster_slurm.slurm.output import AccountingRecord
from dagster_slurm.slurm.quantities import format_memory, format_time_limit
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.slurm.states import JobState
from dagster_slurm.text import counted

_ELSEWHERE = frozenset({JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.LAUNCH_FAILED, JobState.RECONFIG_FAIL})
# COMPLETED is no success where it has no end line.
_RETRIED = _ELSEWHERE | {JobState.OUT_OF_MEMORY, JobState.TIMEOUT, JobState.PREEMPTED, JobState.COMPLETED}


@dataclass(frozen=True)
class Outcome:
    """How the job of an attempt ended, as it lies beside it on the cluster.

    Args:
        state: Slurm's state.
        exit_code: The payload's exit code, if known. A job that has FAILED without may not be the payload's fault.
        node_list: Where it ran, in Slurm's compact form.
        is_of_allocation: Whether it is a step of a session, and ended since its allocation did.
    """

    state: JobState
    exit_code: int | None = None
    node_list: str | None = None
    is_of_allocation: bool = False

    @classmethod
    def of(cls, state: JobState, end_mark: EndMark | None, record: AccountingRecord | None) -> Outcome:
        """How a job ended, as the next attempt has to know it."""
        # The end line is exact where Slurm is not (see `job_failure`).
        exit_code = end_mark.exit_code if end_mark else (record.exit_code if record else None)
        if state is JobState.FAILED and end_mark is None:
            exit_code = record.script_exit_code if record else None
        return cls(state, exit_code, record.node_list if record else None)

    @property
    def is_of_slurm(self) -> bool:
        """Whether it ended for a reason that another job may not have."""
        return self.state in _RETRIED or (self.state is JobState.FAILED and self.exit_code is None)

    def to_value(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "state": self.state.value}

    @classmethod
    def from_value(cls, values: Any) -> Outcome | None:
        """What `to_value` made; None for what it did not."""
        try:
            state, exit_code, node_list = JobState(values["state"]), values.get("exit_code"), values.get("node_list")
            is_of_allocation = values.get("is_of_allocation") is True
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        is_of_kind = isinstance(exit_code, int | None) and isinstance(node_list, str | None)
        return cls(state, exit_code, node_list, is_of_allocation) if is_of_kind else None


def outcomes_to_json(outcomes: Mapping[int | None, Outcome]) -> str:
    """How the elements of an attempt have ended, as one line; None stands for a job of its own."""
    if None in outcomes:
        return json.dumps(outcomes[None].to_value())
    alike: dict[Outcome, list[int | None]] = {}
    for element, outcome in outcomes.items():
        alike.setdefault(outcome, []).append(element)
    return json.dumps({"elements": [[outcome.to_value(), each] for outcome, each in alike.items()]}) if alike else ""


def outcomes_from_json(text: str) -> dict[int | None, Outcome]:
    """What `outcomes_to_json` wrote; nothing for what it did not."""
    try:
        values = json.loads(text)
        pairs = values.get("elements", [[values, [None]]])
        read = [(Outcome.from_value(value), element) for value, elements in pairs for element in elements]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {element: each for each, element in read if each and (element is None or _is_number(element))}


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class RetryRules:
    """Which ends are tried again, and how.

    Args:
        max_retries: How many attempts there may be after the first, those that were continued not counted.
        memory_factor: What the memory grows by when a job was over it.
        max_mem_mib: The most memory to ask for, on a node or for a CPU as the request has it; None for no bound.
        time_factor: What the walltime grows by when a job was over it.
        max_time_limit_seconds: The longest walltime to ask for; None for no bound.
        exclude_failed_nodes: Whether nodes that failed are left out.
    """

    max_retries: int = 3
    memory_factor: float = 2.0
    max_mem_mib: int | None = None
    time_factor: float = 2.0
    max_time_limit_seconds: int | None = None
    exclude_failed_nodes: bool = True


@dataclass(frozen=True)
class Chain:
    """Work that goes on in further jobs.

    Args:
        exit_code: With this a payload says that it is not done; None if it never does.
        max_continuations: How many further jobs there may be.
    """

    exit_code: int | None = None
    max_continuations: int = 100

    def continues(self, outcome: Outcome) -> bool:
        """Whether a payload has asked to go on."""
        return self.exit_code is not None and outcome.state is JobState.FAILED and outcome.exit_code == self.exit_code


@dataclass(frozen=True)
class Next:
    """Whether there is another attempt, and why: a sentence's end, for people."""

    again: bool
    reason: str


def next_request(request: JobRequest, outcomes: Sequence[Outcome], rules: RetryRules | None) -> JobRequest:
    """What the attempt after these asks for."""
    if rules is None:
        return request
    for outcome in outcomes:
        if outcome.is_of_allocation:
            continue
        if outcome.state is JobState.OUT_OF_MEMORY:
            request = _more_memory(request, rules)
        elif outcome.state is JobState.TIMEOUT:
            request = _more_time(request, rules)
        elif outcome.state in _ELSEWHERE and rules.exclude_failed_nodes and outcome.node_list:
            request = _without(request, outcome.node_list)
    return request


def decide_next(request: JobRequest, outcomes: Sequence[Outcome], rules: RetryRules | None, chain: Chain) -> Next:
    """Whether to try again.

    Args:
        request: What was asked for at first.
        outcomes: How the attempts ended, the last one last.
        rules: What is tried again; None for nothing.
        chain: What goes on.
    """
    last = outcomes[-1]
    if chain.continues(last):
        made = sum(chain.continues(outcome) for outcome in outcomes)
        if made > chain.max_continuations:
            return Next(False, f"it has gone on {counted(chain.max_continuations, 'time')} already (max_continuations)")
        return Next(True, "its payload is not done and goes on from its checkpoint")
    if rules is None or not last.is_of_slurm:
        return Next(False, "this kind of end is not retried")
    used = sum(not chain.continues(outcome) for outcome in outcomes) - 1
    if used >= rules.max_retries:
        return Next(False, f"it was retried {counted(used, 'time')} already (max_retries)")
    if last.is_of_allocation:
        return Next(True, f"{last.state} of its allocation; the next attempt is in another one")
    before, after = (next_request(request, part, rules) for part in (outcomes[:-1], outcomes))
    if last.state is JobState.OUT_OF_MEMORY:
        return _raised("memory", _memory_of(before), _memory_of(after), format_memory)
    if last.state is JobState.TIMEOUT:
        return _raised("walltime", before.time_limit_seconds, after.time_limit_seconds, format_time_limit)
    if after.options.get("exclude") != before.options.get("exclude"):
        return Next(True, f"{last.state}; the next attempt leaves out {last.node_list}")
    return Next(True, f"{last.state}; the next attempt is the same")


def _raised(what: str, before: int | None, after: int | None, shown: Callable[[int], str]) -> Next:
    if not before or not after or after <= before:
        return Next(False, f"its {what} cannot be raised any further")
    return Next(True, f"it was over its {what}; the next attempt has {shown(after)}")


def _memory_of(request: JobRequest) -> int | None:
    return request.mem_mib if request.mem_per_cpu_mib is None else request.mem_per_cpu_mib


def _more_memory(request: JobRequest, rules: RetryRules) -> JobRequest:
    mib = _memory_of(request)
    if not mib:
        return request
    raised = _bounded(mib, rules.memory_factor, rules.max_mem_mib)
    if request.mem_per_cpu_mib is None:
        return replace(request, mem_mib=raised)
    return replace(request, mem_per_cpu_mib=raised)


def _more_time(request: JobRequest, rules: RetryRules) -> JobRequest:
    if not request.time_limit_seconds:
        return request
    raised = _bounded(request.time_limit_seconds, rules.time_factor, rules.max_time_limit_seconds)
    return replace(request, time_limit_seconds=raised)


def _bounded(value: int, factor: float, most: int | None) -> int:
    raised = math.ceil(value * factor)
    return raised if most is None else max(value, min(raised, most))


def _without(request: JobRequest, nodes: str) -> JobRequest:
    given = request.options.get("exclude")
    excluded = nodes if given is None else f"{given},{nodes}"
    return replace(request, options={**request.options, "exclude": excluded})
