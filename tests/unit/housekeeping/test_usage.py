"""What was asked and what was used, of jobs and of assets."""

from __future__ import annotations

from dataclasses import replace

from tests.support.launches import claim_record

from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.records import AttemptRecord, LaunchRecord, Listing
from dagster_slurm.housekeeping.usage import lines_of, sums, text_of, usages
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.commands import sacct_of_user_fields
from dagster_slurm.slurm.output import AccountingRecord, parse_sacct

RUN, OTHER = "5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5", "b1de6a29-07c5-4a53-9a2d-0c2f8f2f2d4e"
GRID, MODEL = "weather__grid-0123456789ab", "model-0123456789ab"


def accounted(
    job_id: str,
    name: str,
    run: str,
    *,
    seconds: int,
    rss: str = "",
    limit: str = "60",
    state: str = "COMPLETED",
    cpu: str = "01:00:00",
) -> dict[str, AccountingRecord]:
    told = {
        "JobID": job_id,
        "State": state,
        "ExitCode": "0:0",
        "ElapsedRaw": str(seconds),
        "Submit": "2026-01-01T00:00:00",
        "Start": "2026-01-01T00:00:30",
        "NNodes": "2",
        "AllocCPUS": "8",
        "AllocTRES": "cpu=8,mem=4G,node=2",
        "TotalCPU": cpu,
        "TimelimitRaw": limit,
        "JobName": name,
        "WorkDir": f"/b/runs/{run}/{name}/0/work" if run else "/home/me",
    }
    batch = {"JobID": f"{job_id}.batch", "State": state, "ExitCode": "0:0", "NNodes": "1", "MaxRSS": rss}
    fields = sacct_of_user_fields()
    lines = ["|".join(each.get(name, "") for name in fields) for each in (told, batch)]
    return parse_sacct("\n".join(lines), fields)


RECORDS = {
    **accounted("11", GRID, RUN, seconds=3600, rss="512M"),
    **accounted("12_0", GRID, RUN, seconds=1800, rss="1G", state="FAILED"),
    **accounted("13", MODEL, OTHER, seconds=10, rss="3M", limit="UNLIMITED", cpu="00:20"),
    **accounted("14", "somebody-s", "", seconds=3600),
    **accounted("15", "renamed", RUN, seconds=20),
}
TOLD = Description(OTHER, OTHER, step_key="model", assets=("the/model",))
ATTEMPT = AttemptRecord(RunDirectory("/b", OTHER, MODEL), "1", TOLD, (), (claim_record(0, "13", "13"),))
LISTING = Listing(0.0, (LaunchRecord(OTHER, MODEL, (ATTEMPT,)),))
AT_80 = """\
ASSET     RUN       NODE_HOURS  CPU%  MEM_USED  MEM_ASKED  TIME_USED  TIME_LIMIT
weather…  5e3c7c44  3.00        17    1.0G      2.0G       1:00:00    1:00:00
the/mod…  b1de6a29  0.01        25    -         2.0G       0:10       -
"""


def test_jobs_of_runs_and_their_assets() -> None:
    found = usages({name: each for name, each in RECORDS.items() if name != "15"}, LISTING)
    assert [(each.job_id, each.asset, each.run_id) for each in found] == [
        ("11", "weather/grid", RUN),
        ("12_0", "weather/grid", RUN),
        ("13", "the/model", OTHER),
    ]


def test_a_component_is_of_its_own_asset() -> None:
    told = Description(OTHER, OTHER, step_key="model", assets=("a", "b"), elements=("a", "b"), is_hetjob=True)
    attempt = AttemptRecord(RunDirectory("/b", OTHER, MODEL), "1", told, (), (claim_record(0, "21", "21"),))
    listing = Listing(0.0, (LaunchRecord(OTHER, MODEL, (attempt,)),))
    records = {**accounted("21+0", MODEL, OTHER, seconds=10), **accounted("21+1", MODEL, OTHER, seconds=10)}
    assert [(each.job_id, each.asset) for each in usages(records, listing)] == [("21+0", "a"), ("21+1", "b")]


def test_a_job_that_a_site_has_renamed_is_known_by_its_directory() -> None:
    record = replace(RECORDS["15"], work_directory=f"/b/runs/{RUN}/{GRID}/0/work")
    (found,) = usages({"15": record}, Listing(0.0))
    assert (found.asset, found.run_id) == ("weather/grid", RUN)


def test_memory_of_which_there_was_no_sample_is_not_told() -> None:
    by_id = {each.job_id: each for each in usages(RECORDS, LISTING)}
    assert (by_id["13"].memory_bytes, by_id["13"].asked_bytes, by_id["13"].limit_seconds) == (None, 2 << 30, None)
    assert by_id["11"].memory_bytes == 512 << 20
    assert "Memory Utilized: not known, since Slurm has taken no sample of it" in text_of(by_id["13"])


def test_a_job_in_the_words_of_seff() -> None:
    found = next(each for each in usages(RECORDS, LISTING) if each.job_id == "11")
    assert text_of(found) == [
        "Job ID: 11",
        "Asset: weather/grid",
        f"Run: {RUN}",
        "State: COMPLETED (exit code 0)",
        "Nodes: 2",
        "Cores: 8",
        "CPU Utilized: 01:00:00",
        "CPU Efficiency: 12.50% of 08:00:00 core-walltime",
        "Job Wall-clock time: 01:00:00",
        "Time limit: 01:00:00",
        "Memory Utilized: 512.00 MB",
        "Memory Efficiency: 25.00% of 2.00 GB (of a node)",
        "Waited: 00:00:30",
        "Node-hours: 2.0000",
    ]


def test_assets_and_runs() -> None:
    found = [each for each in usages(RECORDS, LISTING) if each.job_id != "15"]
    grid, model = sums(found, by_run=True)
    assert (grid.asset, grid.run_id, grid.jobs, grid.node_hours, grid.cpu_hours) == ("weather/grid", RUN, 2, 3.0, 12.0)
    assert (grid.states, grid.cpu_used_pct) == ({"COMPLETED": 1, "FAILED": 1}, 16.67)
    assert (grid.memory_bytes, grid.asked_bytes, grid.elapsed_seconds) == (1 << 30, 2 << 30, 3600)
    assert model.run_id == OTHER
    assert [each.run_id for each in sums(found, by_run=False)] == ["", ""]


def test_at_80_columns() -> None:
    found = [each for each in usages(RECORDS, LISTING) if each.job_id != "15"]
    assert "".join(f"{line}\n" for line in lines_of(sums(found, by_run=True), 80)) == AT_80


def test_of_a_job_that_runs_what_it_uses_is_not_known() -> None:
    (found,) = usages(accounted("16", GRID, RUN, seconds=600, rss="1G", state="RUNNING"), Listing(0.0))
    assert (found.cpu_seconds, found.memory_bytes, found.node_hours) == (None, None, 0.333333)
    assert sums([found], by_run=True)[0].cpu_used_pct is None


def test_gpus_are_counted_where_there_were_any() -> None:
    record = replace(RECORDS["11"], alloc_tres={"mem": "4G", "gres/gpu": "4"})
    (found,) = usages({"11": record}, Listing(0.0))
    assert "GPUs: 4" in text_of(found)
    (row,) = sums([found], by_run=True)
    assert row.gpu_hours == 4.0
    assert "GPU_HOURS" in lines_of([row], 120)[0]
    assert "GPU_HOURS" not in lines_of(sums(usages(RECORDS, LISTING), by_run=True), 200)[0]
