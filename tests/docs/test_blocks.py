"""Every code block of README and documentation is run, or stands in a table here that says what is done instead."""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from dagster_slurm.cluster.description import EndMark
from dagster_slurm.doctor import STEPS, Finding, Status
from dagster_slurm.doctor.finding import as_json, lines_of_skipped, summary
from dagster_slurm.errors import EnvironmentNotFoundError, UnknownOptionError
from dagster_slurm.housekeeping.jobs_table import JobRow, RunStanding
from dagster_slurm.housekeeping.jobs_table import lines_of as table_of_jobs
from dagster_slurm.housekeeping.leftovers import DANGLING, Facts, Terms, decide
from dagster_slurm.housekeeping.listed_jobs import Fate
from dagster_slurm.housekeeping.usage import COLUMNS as REPORT_COLUMNS
from dagster_slurm.housekeeping.usage import Usage
from dagster_slurm.housekeeping.usage import text_of as text_of_usage
from dagster_slurm.job.events import Ended, Waiting, line_of
from dagster_slurm.job.failure import job_failure
from dagster_slurm.resources.job_plan import JobPlan, PlannedSetting
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.slurm.advice import Use, advice
from dagster_slurm.slurm.options import canonical_option
from dagster_slurm.slurm.quantities import parse_elapsed_seconds
from dagster_slurm.slurm.reasons import parse_reason
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.slurm.states import JobState, parse_job_state
from tests.docs.markdown import PAGES, READERS, ROOT, Block, blocks_of, name_of
from tests.docs.reader import Reader
from tests.docs.test_new_project import DEMO
from tests.support import judge_table
from tests.support.environments import copied_environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CODE = ("python", "sh", "bash")
SOURCE = ROOT / "src" / "dagster_slurm"
SANDBOX_PAGE = "docs/sandbox.md"
# Followed in tests of their own.
APART = (SANDBOX_PAGE, "docs/getting-started.md", "docs/tutorial.md")
# What is on them `make test` runs in the examples, or for other pages, as well.
AT_LENGTH = ("docs/ci.md", "docs/launchers.md", "docs/ray.md", "docs/spark.md")


def _is_make_target(block: Block) -> None:
    command, target = block.text.split()
    assert command == "make"
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def _is_followed_apart(block: Block) -> None:
    assert block.text == DEMO


# Blocks that are not run as they stand, by page and first line, and what is checked instead.
INSTEAD: dict[tuple[str, str], Callable[[Block], None]] = {
    ("README.md", "make demo"): _is_make_target,  # run by test_demo.py
    ("README.md", "make test"): _is_make_target,  # this is it
    ("docs/new-project.md", "dagster-slurm init demo"): _is_followed_apart,  # by test_new_project.py
}
# Shell blocks for the cluster: run there, as its user.
ON_CLUSTER = {
    ("docs/data.md", "find ~/dagster_runs/data -type f -mtime +90 -delete"),
    ("docs/runs.md", "find ~/dagster_runs/runs -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +"),
}
WITH_PYTEST = {(SANDBOX_PAGE, 'pytest_plugins = ["dagster_slurm.sandbox.pytest_plugin"]')}


# Environments that one page has: made where that is followed.
ENVIRONMENTS = {"/shared/envs/dask": ["dagster-pipes", "distributed"]}


def _says_what_the_error_says(block: Block) -> None:
    with pytest.raises(UnknownOptionError) as caught:
        canonical_option("partitoin")
    assert str(caught.value) == block.text.strip()


def _names_both_layouts(block: Block) -> None:
    source = (ROOT / "src" / "dagster_slurm" / "cluster" / "slurm_cluster.py").read_text(encoding="utf-8")
    assert block.text.splitlines()[1] in source
    assert EnvironmentNotFoundError.__name__ in source


def _is_a_picture(block: Block) -> None:
    assert len({len(line) for line in block.text.splitlines()[1:]}) == 1


def _names_files_of_a_run(block: Block) -> None:
    docstring = (ROOT / "src" / "dagster_slurm" / "run_directory.py").read_text(encoding="utf-8").split('"""')[1]
    named = [line.split()[0].rstrip("/") for line in block.text.splitlines()[1:]]
    assert [name for name in named if name not in docstring] == []


def _shows_a_failure(block: Block) -> None:
    """It is what `job_failure` says of such an end, but for the directory."""
    said = re.search(r"State (\w+), exit code (\d+)(?:, signal \d+)?, node (\w+); kept on (\S+): (.*)$", block.text)
    job = re.search(r"Slurm job (\d+)", block.first_line)
    assert said and job
    tail = "\n".join(line[4:] for line in block.text.splitlines() if line.startswith("    "))
    state, code, node, host, path = said.groups()
    mark = EndMark(job[1], 0, int(code), 0.0, {})
    told = job_failure(
        Ended(JobState[state], None, mark, node),
        job_id=job[1],
        host=host,
        stderr_tail=tail,
        slurm_log_tail="",
        kept_path=path,
        request=JobRequest(mem_mib=4096),
    )
    assert block.text.strip() == str(told)


def _is_a_report_of_the_doctor(block: Block) -> None:
    *lines, not_checked, _, last = block.text.splitlines()
    statuses: dict[str, Status] = {"ok": "ok", "WRONG": "wrong"}
    findings = {line[9:23].strip(): Finding(line[9:23].strip(), statuses[line.split()[0]]) for line in lines}
    names, reason = not_checked[23:].split(": ")
    left = {name: Finding(name, "skipped", reason) for name in names.split(", ")}
    assert [not_checked] == lines_of_skipped(left.values())
    found = findings | left
    assert [name for name in found if name in findings] == [step.name for step in STEPS if step.name in findings]
    assert set(found) == {step.name for step in STEPS}
    assert last == summary(list(found.values()))


def _is_json_of_the_doctor(block: Block) -> None:
    told = json.loads(block.text)
    findings = [Finding(**each) for each in told["findings"]]
    assert told == {**as_json(findings, host=told["host"], logins=told["logins"]), "summary": told["summary"]}


def _is_output_of_reconcile(block: Block) -> None:
    words = "".join(path.read_text(encoding="utf-8") for path in (SOURCE / "reconcile").glob("*.py"))
    for line in block.text.splitlines():
        run_id, job, told = line.split(" ", 2)
        assert str(uuid.UUID(run_id)) == run_id
        assert job.endswith(":")
        assert all(part in words for part in re.split(r"[0-9a-f-]{36}|\d+|, ", told)), told


def _is_a_table_of_jobs(block: Block) -> None:
    width = max(map(len, block.text.splitlines()))
    heading, *lines = (re.split(" {2,}", line) for line in block.text.splitlines())
    made = [_job_row(dict(zip(heading, words, strict=True))) for words in lines]
    assert table_of_jobs(made, width) == block.text.splitlines()


def _is_a_report(block: Block) -> None:
    *lines, _, last = block.text.splitlines()
    heading, *rows = (line.split() for line in lines)
    assert [word for word in heading if word not in {each.heading for each in REPORT_COLUMNS}] == []
    assert {len(row) for row in rows} == {len(heading)}
    jobs, hours = (sum(float(row[heading.index(name)]) for row in rows) for name in ("JOBS", "NODE_HOURS"))
    assert last.startswith(f"{jobs:.0f} jobs, {hours:.2f} node-hours, since ")


def _is_a_report_of_a_job(block: Block) -> None:
    lines = dict(line.split(": ", 1) for line in block.text.splitlines())
    usage = Usage(
        lines["Job ID"],
        lines["Asset"],
        lines["Run"],
        "COMPLETED",
        0,
        1,
        8,
        *(parse_elapsed_seconds(lines[name]) for name in ("Job Wall-clock time", "Time limit", "Waited")),
        cpu_seconds=parse_elapsed_seconds(lines["CPU Utilized"]),
        memory_bytes=round(3.2 * (1 << 30)),
        asked_bytes=16 << 30,
        node_hours=float(lines["Node-hours"]),
    )
    assert text_of_usage(usage) == block.text.splitlines()


def _job_row(words: dict[str, str]) -> JobRow:
    said = {name: word.replace("-", "") if word == "-" else word for name, word in words.items()}
    states = re.findall(r"(\d+ )?([A-Z]+)", said["ST"])
    tasks = {parse_job_state(code).value: int(count) for count, code in states if count}
    first, _, more = said["KEY"].partition("+")
    where = said["NODELIST(REASON)"]
    return JobRow(
        said["JOBID"],
        said["RUN"],
        said["RUN_STATUS"],
        said["ASSET"],
        ((first,) if first else ()) + ("",) * int(more or 0),
        state=parse_job_state(states[0][1]).value,
        tasks=tasks,
        reason=where.strip("()"),
        nodes="" if where.startswith("(") else where,
        elapsed_seconds=parse_elapsed_seconds(said["TIME"]),
        left_seconds=parse_elapsed_seconds(said["TIME_LEFT"]) if said["TIME_LEFT"] else None,
        cpus=int(said["CPUS"]),
        memory=said["MIN_MEMORY"],
    )


def _is_what_clean_says(block: Block) -> None:
    *lines, _, last = block.text.splitlines()
    facts = [Facts(run_id=run.value, fate=fate, run=run, idle_seconds=1e9) for run in RunStanding for fate in Fate]
    known = {re.escape(decide(each, Terms()).reason).replace(re.escape(each.run_id), "[0-9a-f-]{36}") for each in facts}
    known |= {"job [0-9]+ is RUNNING", re.escape(DANGLING.reason)}
    for line in lines:
        action, _, _, reason = re.split(r" {2,}", line)
        assert any(re.fullmatch(each, reason) for each in known), reason
        assert action in ("keep", "remove")
    removed = sum(line.startswith("remove") for line in lines)
    assert last.startswith(f"{removed} to remove (")
    assert last.endswith(f"{len(lines) - removed} to keep. Nothing was removed; --yes does it.")


_WAITS = r"Slurm job (\d+) waits: .* \((\w+)(?:: (.*))?\); .*?"
_HAPPENS = r"Slurm job \d+ (?:runs on n\d.*|was started by Slurm at .*|is suspended: .*|was requeued: .*|goes on)"


def _is_told_of_waiting(block: Block) -> None:
    for line in filter(None, block.text.splitlines()):
        _, level, told = line.split(None, 2)
        waits = re.fullmatch(rf"{_WAITS}(?:\. Expected start: (?:unknown|(.*) UTC))?", told)
        if waits is None:
            assert re.fullmatch(_HAPPENS, told), told
            continue
        job_id, code, detail, at = waits.groups()
        text = detail if detail and " " in detail else f"{code}, UnavailableNodes:{detail}" if detail else code
        expected = datetime.strptime(at, "%Y-%m-%d %H:%M") if at else None
        assert line_of(job_id, Waiting(parse_reason(text), expected)) == (level.lower(), told)


def _is_a_plan(block: Block) -> None:
    source = (SOURCE / "resources" / "job_plan.py").read_text(encoding="utf-8")
    lines = block.text.splitlines()
    labels = [line[2:].partition(" ")[0] for line in lines if line.startswith("- ")]
    headings = [line.lstrip("# ").partition(":")[0] for line in lines if line.startswith("#")]
    assert [word for word in [*labels, *headings] if word not in source] == []
    plan = JobPlan("slurm", "", "", "", "", options=_options_of(lines))
    table = [line for line in lines if line.startswith("|")]
    assert [line for line in str(plan).splitlines() if line.startswith("|")][: len(table)] == table


def _options_of(lines: list[str]) -> tuple[PlannedSetting, ...]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| --")]
    return tuple(PlannedSetting(*row) for row in rows)


JOBS_HEADING = (
    "JOBID  RUN       RUN_STATUS  ASSET         KEY            ST              TIME        TIME_LEFT  "
    "CPUS  MIN_MEMORY  NODELIST(REASON)"
)
WHAT_CLEAN_KEEPS = (
    "keep    1.2 GiB  runs/5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5/weather__grid-3f0c2d1e9a8b  job 4711 is RUNNING"
)
WAITED = (
    "03:10:16 INFO    Slurm job 98 waits: the nodes, CPUs, memory or GPUs it asks for are in use (Resources); "
    "it starts when other jobs end and free them. Expected start: 2026-11-22 03:20 UTC"
)


def _is_what_a_run_logs(block: Block) -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (SOURCE / "work").glob("*.py"))
    submitted, runs, training = (line.rpartition(" - ")[2] for line in block.text.splitlines())
    assert submitted == "Submitted Slurm job 4711"
    assert '"Submitted {' in source
    assert training == "training on 5000 rows"
    assert runs == "Slurm job 4711 runs on n12"
    assert " runs on {" in source


def _is_compared_with_what_is_printed(block: Block) -> None:
    assert (ROOT / "tests" / "docs" / "test_getting_started.py").exists()


def _is_an_advice(block: Block) -> None:
    request = merge({"mem": "16G", "cpus": 8})
    assert advice(request, [Use(elapsed_seconds=600.0, cpus=1.0, memory_mib=1126.4)] * 12) == block.text.strip()


ADVISED = 'Used at most 1.1 of 16 GiB and 1.0 of 8 CPUs in the last 12 runs: mem="2G", cpus_per_task=1 would do'

# Blocks that nobody runs, by page and first line, and what is checked of them.
TEXT: dict[tuple[str, str], Callable[[Block], None]] = {
    ("README.md", "this machine                  login node                      compute node"): _is_a_picture,
    ("README.md", "model - ENGINE_EVENT - Submitted Slurm job 4711"): _is_what_a_run_logs,
    ("docs/doctor.md", "ok       settings      me@login.cluster, runs in ~/dagster_runs"): _is_a_report_of_the_doctor,
    ("docs/doctor.md", "{"): _is_json_of_the_doctor,
    ("docs/environments.md", "The environment /shared/envs/nothing does not exist"): _names_both_layouts,
    ("docs/errors.md", "sbatch has no option 'partitoin'"): _says_what_the_error_says,
    (
        "docs/reconcile.md",
        "5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5 nightly: marked failed; its retry, "
        "run 1b6f8f8e-1f2b-5a43-8c0e-6a3d2f9c7e10, succeeded",
    ): _is_output_of_reconcile,
    ("docs/getting-started.md", "words - Running count_words.py on this machine in"): _is_compared_with_what_is_printed,
    ("docs/getting-started.md", "words - ENGINE_EVENT - Submitted Slurm job"): _is_compared_with_what_is_printed,
    ("docs/jobs.md", JOBS_HEADING): _is_a_table_of_jobs,
    ("docs/jobs.md", WHAT_CLEAN_KEEPS): _is_what_clean_says,
    (
        "docs/jobs.md",
        "ASSET         RUN       JOBS  NODE_HOURS  CPU%  MEM_USED  MEM_ASKED  TIME_USED   TIME_LIMIT",
    ): _is_a_report,
    ("docs/jobs.md", "Job ID: 4698"): _is_a_report_of_a_job,
    ("docs/plan.md", "# Plan: train.py on me@login.cluster"): _is_a_plan,
    ("docs/runs.md", "~/dagster_runs/runs/<run>/<step and call>/<attempt>/"): _names_files_of_a_run,
    ("docs/runs.md", ADVISED): _is_an_advice,
    ("docs/ends.md", "Out of memory: Slurm job 31 used all of its 4 GiB on n1"): _shows_a_failure,
    ("docs/runs.md", "Exit code 3, Slurm job 17 on n1: no such column: price"): _shows_a_failure,
    ("docs/waiting.md", WAITED): _is_told_of_waiting,
    ("docs/waiting.md", "03:11:11 INFO    Slurm job 118 runs on n1"): _is_told_of_waiting,
}

ALL = [block for page in PAGES for block in blocks_of(page)]
KEY_OF = {block.place: (block.page, block.first_line) for block in ALL}


def test_tables_name_blocks_that_are_there() -> None:
    assert {*INSTEAD, *ON_CLUSTER, *WITH_PYTEST, *TEXT} <= set(KEY_OF.values())


@pytest.mark.parametrize("block", [b for b in ALL if KEY_OF[b.place] in INSTEAD], ids=lambda block: block.place)
def test_blocks_that_are_checked_instead(block: Block) -> None:
    INSTEAD[KEY_OF[block.place]](block)


@pytest.mark.parametrize("block", [b for b in ALL if b.language not in CODE], ids=lambda block: block.place)
def test_blocks_that_are_no_code(block: Block) -> None:
    if block.language == "yaml":
        assert yaml.safe_load(block.text)
    elif block.language == "toml":
        assert tomllib.loads(block.text)
    elif block.language == "mermaid":
        assert block.text in judge_table.diagram()
    elif block.language in ("ini", "dockerfile"):
        assert block.page == "docs/deploy.md"  # read by test_deploy.py
    elif block.page == "docs/tutorial.md":
        assert block.language == "text"  # compared with what is printed by test_tutorial.py
    else:
        assert block.language == "text", f"{block.place}: a block of the unknown language {block.language!r}"
        TEXT[KEY_OF[block.place]](block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_of_a_page_is_used_by_another_block(page: Path) -> None:
    blocks = blocks_of(page)
    for block in blocks:
        if block.title:
            # A file in a directory goes with it.
            first, *below = Path(block.title).parts
            module = Path(first).stem if below or block.language in ("python", "toml") else first
            others = [other.text for other in blocks if other is not block]
            defines = re.search(r"^defs = ", block.text, re.MULTILINE)
            # What is looked for in the home directory is found without being named.
            assert defines or first == "~" or any(module in text for text in others), (
                f"{block.place}: nothing uses {block.title}"
            )


@pytest.fixture(scope="session")
def names(sandbox: Sandbox) -> dict[str, str]:
    """What the pages call things, and what they are called here."""
    reach, strict = sandbox.env(), sandbox.env(strict=True)
    address = f'port={reach["SLURM_EDGE_NODE_PORT"]}, known_hosts_file="{reach["SLURM_EDGE_NODE_KNOWN_HOSTS_FILE"]}"'
    return {
        "/shared/envs/analysis": copied_environment(sandbox, "tests", ["dagster-pipes"]),
        'host="login.cluster"': f'host="{reach["SLURM_EDGE_NODE_HOST"]}", {address}',
        'host="password.cluster"': f'host="{reach["SLURM_EDGE_NODE_HOST"]}", '
        f'port={strict["SLURM_EDGE_NODE_PORT"]}, known_hosts_file="{strict["SLURM_EDGE_NODE_KNOWN_HOSTS_FILE"]}"',
        'user="me"': f'user="{reach["SLURM_EDGE_NODE_USER"]}"',
        "~/.ssh/id_ed25519": reach["SLURM_EDGE_NODE_KEY_PATH"],
    }


@pytest.mark.cluster
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.all_faults] if name_of(page) in AT_LENGTH else [])
        for page in PAGES
        if name_of(page) not in APART
    ],
    ids=name_of,
)
def test_a_reader_who_follows_the_page(page: Path, sandbox: Sandbox, names: dict[str, str], tmp_path: Path) -> None:
    if name_of(page).startswith("examples/"):
        (tmp_path / "examples").symlink_to(ROOT / "examples")
    # Two examples have a size; theirs is for three nodes.
    variables = {
        "LOOKOUTS_FILES": str(tmp_path),
        "CLUSTER_PASSWORD": sandbox.password(),
        "FLEET": "300",
        "TRIALS": "16",
        # A JVM that lives for seconds: compiling for a long life costs more than it saves.
        "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }
    text = page.read_text(encoding="utf-8")
    if "~/.config/" in text:
        # Where `Reader.write` puts such a file.
        variables["XDG_CONFIG_HOME"] = str(tmp_path / "~" / ".config")
    made = {path: sandbox.create_environment(Path(path).name, of) for path, of in ENVIRONMENTS.items() if path in text}
    reader = Reader(tmp_path, {**sandbox.env(), **variables}, {**names, **made})
    _follow(reader, sandbox, blocks_of(page))


@pytest.mark.cluster
@pytest.mark.xdist_group(READERS)
def test_a_reader_who_follows_the_page_of_the_sandbox(named_by_a_reader: dict[str, str], tmp_path: Path) -> None:
    _follow(Reader(tmp_path, named_by_a_reader, {}), Sandbox(), blocks_of(ROOT / SANDBOX_PAGE))


def _follow(reader: Reader, sandbox: Sandbox, blocks: list[Block]) -> None:
    code = [
        block for block in blocks if block.language in (*CODE, "yaml", "toml") and KEY_OF[block.place] not in INSTEAD
    ]
    for block in code:
        if block.title:
            reader.write(block)
    for block in code:
        _run(reader, sandbox, block)


def _run(reader: Reader, sandbox: Sandbox, block: Block) -> None:
    key = KEY_OF[block.place]
    if key in WITH_PYTEST:
        reader.test(block)
    elif key in ON_CLUSTER:
        done = sandbox.run(["bash", "-euc", block.text])
        assert done.returncode == 0, f"{block.place}: {done.stderr}"
    elif block.language == "python" and (not block.title or "\ndefs = " in block.text):
        reader.materialize(block)
    elif block.language in ("sh", "bash") and not block.title:
        reader.shell(block)
