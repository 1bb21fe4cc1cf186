"""Ends, outputs, variables and retries within one process: the same for every kind of carrier, and in mode `local`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.docs.markdown import ROOT, blocks_of

from .project import ARRAY, LOCAL, LOCAL_PARTITIONS, OWN, STEP, STEPS, Kind, Work
from .work import COUNTED, EATS, Make, Ran, kinds

pytestmark = [pytest.mark.process, pytest.mark.timeout(180), pytest.mark.sampled("kind", share=3)]

ALL = (OWN, ARRAY, STEP, STEPS, LOCAL, LOCAL_PARTITIONS)
ON_A_CLUSTER = (OWN, ARRAY, STEP, STEPS)
# One unit for each end. What it sees of variables, it prints.
PAYLOAD = """
import json
import os
import signal
import sys

unit = os.environ.get("DAGSTER_SLURM_PARTITION_KEY") or os.environ["UNIT"]
print("before the end", file=sys.stderr, flush=True)
if unit == "code":
    sys.exit(7)
if unit == "raised":
    raise ValueError("it went wrong")
if unit == "signal":
    os.kill(os.getpid(), signal.SIGSEGV)
if unit == "memory":
    block = b"x" * (300 << 20)
names = ("DAGSTER_SLURM_CHECKPOINT_DIR", "DAGSTER_SLURM_ATTEMPT", "DAGSTER_SLURM_PARTITION_KEY")
found = {name: os.environ[name] for name in names if name in os.environ}
directory = found.get(names[0])
print(json.dumps({**found, "has_checkpoint": bool(directory) and os.access(directory, os.W_OK)}))
"""
ENDS = {
    "code": ["Exit code 7, ", ": before the end", "State FAILED, exit code 7, node "],
    "raised": [
        "ValueError: it went wrong (exit code 1, ",
        ", line 12, in <module>",
        "State FAILED, exit code 1, node ",
    ],
    "signal": ["Signal 11 (SIGSEGV), ", "before the end", "State FAILED", "signal 11", ", node "],
}
OUT_OF_MEMORY = [
    "Out of memory: Slurm {what} ",
    " used all of its 60 MiB on n",
    "State OUT_OF_MEMORY",
    "It had 60 MiB: raise `mem`",
]
ATTEMPT, CHECKPOINT = "DAGSTER_SLURM_ATTEMPT", "DAGSTER_SLURM_CHECKPOINT_DIR"


@pytest.fixture(scope="module")
def ended(make_world: Make) -> Callable[[Kind], Ran]:
    """A run of all ends; one for each kind."""
    found: dict[Kind, Ran] = {}

    def of(kind: Kind) -> Ran:
        if kind not in found:
            memory = ["memory"] if kind in ON_A_CLUSTER else []
            world = make_world(kind, "success", *ENDS, *memory)
            found[kind] = world.run(Work(kind, world.units, world.payload(PAYLOAD, "payload.py")))
        return found[kind]

    return of


@kinds(*ALL)
def test_what_succeeds_is_on_record_and_nothing_else(ended: Callable[[Kind], Ran], kind: Kind) -> None:
    ran = ended(kind)
    assert not ran.succeeded
    assert list(ran.materialized()) == ["success"], ran.text()


@kinds(*ALL)
@pytest.mark.parametrize("end", ENDS)
def test_ends_are_told_apart(ended: Callable[[Kind], Ran], kind: Kind, end: str) -> None:
    text = ended(kind).failure(end)
    assert [part for part in ENDS[end] if part not in text] == [], text
    # Whatever stands before it, such as the partition.
    assert ENDS[end][0] in text.splitlines()[0]


@kinds(*ON_A_CLUSTER)
def test_out_of_memory(ended: Callable[[Kind], Ran], kind: Kind) -> None:
    text = ended(kind).failure("memory")
    expected = [part.format(what="step" if kind in (STEP, STEPS) else "job") for part in OUT_OF_MEMORY]
    assert [part for part in expected if part not in text] == [], text
    assert [part for part in expected[:2] if part not in text.splitlines()[0]] == []


@kinds(*ON_A_CLUSTER)
def test_a_failure_has_what_slurm_said(ended: Callable[[Kind], Ran], kind: Kind) -> None:
    text = ended(kind).failure("memory")
    assert "oom-kill" in text or "oom_kill" in text, text  # From 24.11 on.


@kinds(ARRAY, STEPS, LOCAL_PARTITIONS)
def test_the_partition_is_a_variable(ended: Callable[[Kind], Ran], kind: Kind) -> None:
    assert variables(ended(kind))["DAGSTER_SLURM_PARTITION_KEY"] == "success"


@kinds(*ALL)
def test_the_checkpoint_directory_is_there(ended: Callable[[Kind], Ran], kind: Kind) -> None:
    found = variables(ended(kind))
    assert found.get(CHECKPOINT) and found["has_checkpoint"]


@kinds(
    *ALL,
)
def test_the_attempt_is_a_variable(ended: Callable[[Kind], Ran], kind: Kind) -> None:
    assert variables(ended(kind)).get(ATTEMPT) == "0"


def variables(ran: Ran) -> dict[str, Any]:
    (line,) = [line for line in ran.output("success").splitlines() if line.startswith("{")] or ran.output("success")
    found: dict[str, Any] = json.loads(line)
    return found


@kinds(
    *ALL,
)
def test_the_payload_of_the_documentation_runs_unchanged(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    (block,) = [each for each in blocks_of(ROOT / "docs" / "ends.md") if each.title == "integrate.py"]
    ran = world.run(Work(kind, world.units, world.payload(block.text, "integrate.py"), {"continue_exit_code": 85}))
    assert ran.succeeded, ran.text()
    assert ran.output("a") == "done in attempt 0\n"


GOES_ON = COUNTED + (
    "echo part $tries >>$DAGSTER_SLURM_CHECKPOINT_DIR/done\n"
    "[ $(wc -l <$DAGSTER_SLURM_CHECKPOINT_DIR/done) = 2 ] || exit 85\n"
    "cat $DAGSTER_SLURM_CHECKPOINT_DIR/done\n"
)


@kinds(*ALL)
def test_work_goes_on_from_its_checkpoint(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    ran = world.run(world.work(GOES_ON, call={"continue_exit_code": 85}))
    assert ran.succeeded, ran.text()
    assert ran.output("a").endswith("part 1\npart 2\n")
    assert len(set(world.marks())) == 2
    assert list(ran.materialized()) == ["a"]


@kinds(*ALL)
def test_a_step_retry_executes_what_failed_and_nothing_else(make: Make, kind: Kind) -> None:
    world = make(kind, "good", "flaky")
    ran = world.run(world.work(COUNTED + "[ $unit = good ] || [ $tries = 2 ]\n", retries=2))
    assert ran.succeeded, ran.text()
    assert world.executed() == {"good": 1, "flaky": 2}
    assert sorted(ran.materialized()) == ["flaky", "good"]


PREAMBLES = {
    "submit_dir": 'cd "$SLURM_SUBMIT_DIR"',
    "tee": "exec > >(tee run.log) 2>&1; seq 3000",
    "stderr": "echo one >/dev/stderr; echo two >/dev/stdout; echo three | tee /dev/stderr",
    "strict": "set -euo pipefail; cd $SLURM_SUBMIT_DIR",
    "modules": "module purge; export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
}
REQUEUE = """
if [ -n "$SLURM_JOB_ID" ] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then scontrol requeue "$SLURM_JOB_ID"; sleep 300; fi
"""


def batch_script(preambles: Mapping[str, str]) -> str:
    """As people have it: one of these lines first, and then a result in the working directory."""
    cases = "\n".join(f"{unit}) {line} ;;" for unit, line in preambles.items())
    unit = "unit=${DAGSTER_SLURM_PARTITION_KEY:-$UNIT}"
    return f'{unit}\necho "begin $unit"\ncase $unit in\n{cases}\nesac\necho "$unit" >result.txt\necho "end $unit"\n'


@kinds(*ALL)
def test_batch_scripts_with_the_usual_first_lines(make: Make, kind: Kind, tmp_path: Path) -> None:
    """Each works in a directory of its own, and its log is whole."""
    world = make(kind, *PREAMBLES)
    path = world.payload(batch_script(PREAMBLES))
    ran = world.run(Work(kind, world.units, path, call={"outputs": ["result.txt"]}))
    assert ran.succeeded, ran.text()
    storage = Path(world.instance.storage_directory())
    assert sorted(each.read_text().strip() for each in storage.rglob("result.txt")) == sorted(PREAMBLES)
    for unit in PREAMBLES:
        lines = ran.output(unit).splitlines()
        assert [line for line in lines if line.endswith(unit)] == [f"begin {unit}", f"end {unit}"], lines
    assert [line for line in ran.output("stderr").splitlines() if line in ("two", "three")] == ["two", "three"]
    assert [line for line in ran.output("tee").splitlines() if line.isdigit()] == [str(n) for n in range(1, 3001)]


@kinds(*ALL, seldom=ALL)
def test_a_batch_script_that_requeues_itself(make: Make, kind: Kind) -> None:
    world = make(kind, "requeue")
    ran = world.run(Work(kind, world.units, world.payload(batch_script({"requeue": REQUEUE}))))
    assert ran.succeeded, ran.text()
    assert "end requeue" in ran.output("requeue")


WRITES = "echo of $unit >$unit.csv; mkdir deep; echo deep >deep/$unit.txt; touch other\n"


@kinds(*ALL)
@pytest.mark.parametrize("scratch", [False, True], ids=["in place", "scratch"])
def test_outputs_are_fetched_and_kept(make: Make, kind: Kind, tmp_path: Path, scratch: bool) -> None:
    world = make(kind, "a", "b")
    to = tmp_path / "fetched"
    call = {"outputs": ["*.csv", "deep/*"], "outputs_dir": str(to), "keep_on_cluster": ["*.csv"], "scratch": scratch}
    ran = world.run(world.work(WRITES, call=call))
    assert ran.succeeded, ran.text()
    assert texts(to) == {"a.csv": "of a\n", "b.csv": "of b\n", "a.txt": "deep\n", "b.txt": "deep\n"}
    for unit, made in ran.materialized().items():
        ((name, place),) = made["slurm_kept"].items()
        assert name == f"{unit}.csv"
        assert world.read(place["path"]) == f"of {unit}\n"


@kinds(*ALL)
def test_outputs_go_below_dagsters_storage_by_default(make: Make, kind: Kind) -> None:
    world = make(kind, "a", "b")
    ran = world.run(world.work(WRITES, call={"outputs": ["*.csv"]}))
    assert ran.succeeded, ran.text()
    assert texts(Path(world.instance.storage_directory()), "*.csv") == {"a.csv": "of a\n", "b.csv": "of b\n"}


@kinds(*ALL)
def test_an_output_that_is_not_there_fails_its_unit(make: Make, kind: Kind) -> None:
    world = make(kind, "a", "b")
    ran = world.run(world.work("[ $unit = b ] || touch there\n", call={"outputs": ["there"]}))
    assert not ran.succeeded
    assert list(ran.materialized()) == ["a"]
    assert "no file matches the output 'there'" in ran.failure("b"), ran.text()


def texts(directory: Path, glob: str = "*") -> dict[str, str]:
    """By name: where below it a unit's files lie is left to its kind."""
    return {path.name: path.read_text() for path in directory.rglob(glob) if path.is_file()}


MORE_MEMORY = {"retry_policy": {"max_retries": 3, "memory_factor": 4, "max_mem": "300M"}}


@kinds(*ON_A_CLUSTER)
def test_out_of_memory_is_tried_again_with_more(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    ran = world.run(world.work(EATS.format(mib=120), resource=MORE_MEMORY))
    assert ran.succeeded, ran.text()
    assert world.executed() == {"a": 2}
    (reason,) = [text for text in ran.messages() if "ended as OUT_OF_MEMORY" in text]
    assert "the next attempt has 240M" in reason
