"""Jobs that are held back, each by another reason, on a cluster of their own: the run says why and what ends it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.slurm.commands import squeue
from tests.support.instances import empty_instance

from ..assets.conftest import compute_log
from ..support.waiting import eventually
from .conftest import Record
from .figures import Figures, lines_off
from .held_back import Run, Site

pytestmark = pytest.mark.cluster

QUEUE = {"partition": "compute", "mem": "100M", "time_limit": "00:05:00", "cpus": 1}
Begin = Callable[..., Run]
LINES = [f"line {number}" for number in range(5)]
PAYLOAD = "echo $SLURM_JOB_ID >>$HOME/{marks}; for n in $(seq 0 4); do echo line $n; done"


@pytest.fixture
def site(sandbox: Sandbox) -> Iterator[Site]:
    """The cluster with nothing in its queue, before and after."""
    made = Site(sandbox)
    made.end_everything()
    yield made
    made.end_everything()
    # A node that was resumed is away until it has answered; while one is, nothing is refused for its size.
    eventually(lambda: sandbox.status().ready, "all nodes")


@pytest.fixture
def begin(sandbox: Sandbox, tmp_path: Path) -> Iterator[Begin]:
    """Begins a run of an asset whose job asks for options of sbatch."""
    env = sandbox.env()
    ssh = SSHConnectionResource(
        host=env["SLURM_EDGE_NODE_HOST"],
        port=int(env["SLURM_EDGE_NODE_PORT"]),
        user=env["SLURM_EDGE_NODE_USER"],
        key_path=env["SLURM_EDGE_NODE_KEY_PATH"],
        known_hosts_file=env["SLURM_EDGE_NODE_KNOWN_HOSTS_FILE"],
    )
    slurm = SlurmResource(ssh=ssh, queue=SlurmQueueConfig(**QUEUE), remote_base=f"~/test-runs/{tmp_path.name}")
    payload = tmp_path / "payload.sh"
    with empty_instance() as instance:

        def begin_run(text: str = "true", /, **options: object) -> Run:
            payload.write_text(f"{text}\n")

            @dg.asset
            def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
                return compute.run(context, payload, extra_slurm_opts=options).get_materialize_result()

            return Run(instance, measured, compute=ComputeResource(mode="slurm", slurm=slurm))

        yield begin_run


def _all_nodes_are_in_use(site: Site) -> None:
    site.run_another("--nodes=3", "--exclusive", "--time=10")


def _another_goes_first(site: Site) -> None:
    _all_nodes_are_in_use(site)
    site.submit("--nodes=3", "--exclusive", "--time=10")


def _one_job_for_each_user(site: Site) -> None:
    site.administer("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxJobsPerUser=1")
    site.run_another()


def _any_number_of_jobs(site: Site) -> None:
    site.administer("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxJobsPerUser=-1")


def _administered(*argv: str) -> Callable[[Site], None]:
    return lambda site: site.administer("scontrol", "update", *argv)


def _nothing(site: Site) -> None:
    del site


# The reason, how it comes about, what the job asks for, what is told, and what ends it.
HELD_BACK = [
    pytest.param(
        _all_nodes_are_in_use,
        {},
        r"info: .*: the nodes, CPUs, memory or GPUs it asks for are in use \(Resources\); it starts when other jobs "
        r"end and free them\. Expected start: ",
        Site.end_others,
        id="Resources",
    ),
    pytest.param(
        _another_goes_first,
        {"nice": 1000},
        r"info: .*: jobs of higher priority are before it \(Priority\); it starts after them, .*\. Expected start: 20",
        Site.end_others,
        id="Priority",
    ),
    pytest.param(
        lambda site: site.submit("--hold"),
        {"dependency": lambda site: f"afterany:{site.others[0]}"},
        r"info: .*: it depends on another job \(Dependency\); it starts when that job has .* the way the dependency "
        r"asks for\. Expected start: unknown",
        Site.end_others,
        id="Dependency",
    ),
    pytest.param(
        _nothing,
        {"begin": "now+8"},
        r"info: .*: its earliest start time has not come \(BeginTime\); it starts then or later.*\. Expected start: 20",
        _nothing,
        id="BeginTime",
    ),
    pytest.param(
        _one_job_for_each_user,
        {},
        r"info: .*: as many of your jobs run as its QOS allows \(QOSMaxJobsPerUserLimit\); it starts when one of them "
        r"ends, or an administrator raises the limit\. Expected start: ",
        _any_number_of_jobs,
        id="QOSMaxJobsPerUserLimit",
    ),
    pytest.param(
        _administered("nodename=n2", "state=drain", "reason=test"),
        {"nodelist": "n2"},
        r"info: .*: nodes it needs are down, drained or do not answer \(ReqNodeNotAvail: n2\); it starts when an "
        r"administrator brings them back\. Expected start: unknown",
        _administered("nodename=n2", "state=resume"),
        id="ReqNodeNotAvail",
    ),
    pytest.param(
        _administered("partition=debug", "state=down"),
        {"partition": "debug"},
        r"info: .*: its partition is down \(PartitionDown\); it starts when an administrator brings the partition up\. "
        r"Expected start: unknown",
        _administered("partition=debug", "state=up"),
        id="PartitionDown",
    ),
    pytest.param(
        _nothing,
        {"hold": True},
        r"warning: Slurm job (\d+) waits: it is held, by you or by a coordinator of its account \(JobHeldUser\); "
        r"`scontrol release \1` lets it start$",
        lambda site: site.administer("scontrol", "release", site.own),
        id="JobHeldUser",
    ),
]


@pytest.mark.parametrize(("hold", "options", "told", "release"), HELD_BACK)
def test_a_job_that_is_held_back(
    site: Site,
    begin: Begin,
    hold: Callable[[Site], object],
    options: dict[str, object],
    told: str,
    release: Callable[[Site], object],
    record: Record,
    request: pytest.FixtureRequest,
) -> None:
    marks = site.cluster.home / f"marks-{time.monotonic_ns()}"
    hold(site)
    try:
        run = begin(
            PAYLOAD.format(marks=marks.name),
            **{name: value(site) if callable(value) else value for name, value in options.items()},
        )
        site.own = run.until(r"Slurm job (\d+) waits")[1]
        run.until(told)
    finally:
        release(site)
    result = run.end()
    assert result.success
    print(*run.lines(), sep="\n")
    waited = run.until(r"info: Slurm job \d+ was started by Slurm at 20\S+ \S+ UTC, after (\d+) s in the queue")[1]
    (event,) = result.get_asset_materialization_events()
    # That of Slurm, in whole seconds, and that until the batch script began.
    assert event.materialization.metadata["queue_wait_seconds"].value == pytest.approx(float(waited), abs=3)
    assert [line for line in run.lines() if " runs on " in line]
    missing, doubled = lines_off(compute_log(result, run.instance), LINES)
    starts = marks.read_text().split()
    figures = Figures(len(starts), len(set(starts)), "SUCCESS", missing, doubled)
    record(f"waits-{request.node.callspec.id}", [figures])


def test_suspended_resumed_requeued_and_held_again(site: Site, begin: Begin) -> None:
    run = begin('[ "${SLURM_RESTART_COUNT:-0}" != 0 ] || sleep 100')
    own = run.until(r"Slurm job (\d+) runs on n")[1]
    for action, told in (
        ("suspend", "info: .* is suspended: its processes stand still until it is resumed$"),
        ("resume", "info: .* goes on$"),
        ("requeuehold", r"warning: .* waits: it was requeued and is held \(JobHeldUser: .*`scontrol release \d+`"),
        ("release", r"info: .* waits: its earliest start time has not come \(BeginTime\)"),
    ):
        site.administer("scontrol", action, own)
        run.until(told)
    site.administer("scontrol", "update", f"jobid={own}", "starttime=now")
    assert run.end().success
    lines = run.lines()
    print(*lines, sep="\n")
    assert len([line for line in lines if " was requeued: " in line]) == 1
    assert len([line for line in lines if " runs on n" in line]) == 2
    # Of a start that was not waited for it says nothing.
    again = lines[next(number for number, line in enumerate(lines) if " was requeued: " in line) :]
    assert len([line for line in again if " was started by Slurm " in line]) == 1
    assert len(lines) == len(set(lines))


def test_what_waiting_costs(site: Site, begin: Begin) -> None:
    """No question that is not asked anyway: after 1.5 s, and then with pauses of 5 s that grow."""
    other = site.submit("--hold")
    before = site.calls()
    site.user(*squeue([other]))
    each = site.calls() - before
    run = begin(hold=True)
    site.own = run.until(r"Slurm job (\d+) waits")[1]
    before = site.calls()
    time.sleep(12)
    assert each <= site.calls() - before <= 2 * each
    assert len(run.lines()) == 1
    site.administer("scontrol", "release", site.own)
    assert run.end().success


def test_a_job_that_no_node_is_large_enough_for_is_refused_though_nodes_are_away(site: Site, begin: Begin) -> None:
    site.administer("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    try:
        result = begin(mem="900G").end()
    finally:
        site.administer("scontrol", "update", "nodename=n2", "state=resume")
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert "SubmissionRejectedError" in str(event.step_failure_data.error)
    assert not site.user("squeue", "--noheader", "--me")
