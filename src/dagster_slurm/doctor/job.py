"""The environment, and one small job on the normal path: does it run, and is what it writes seen here?"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass

from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.description import EndMark, OverMark, StartMark, parse_marks
from dagster_slurm.cluster.judge import Patience
from dagster_slurm.doctor.finding import Finding, fine, skipped, warning, wrong
from dagster_slurm.doctor.world import World
from dagster_slurm.environments import CLUSTER_PYTHON, Activation, activate_deployed
from dagster_slurm.errors import SubmissionUnknownError
from dagster_slurm.job.batch_script import batch_script, env_file
from dagster_slurm.job.cancelling import Canceller, Order
from dagster_slurm.job.events import Broken, Ended, Event, Started, Subscription
from dagster_slurm.job.watcher import JobWatcher
from dagster_slurm.launchers import LaunchPlan, launch_script
from dagster_slurm.run_directory import JobHandle, RunDirectory
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.transport import CompletedCommand
from dagster_slurm.transport.shell import quote, shell_file

_ENVIRONMENT = "environment"
_FACTS = re.compile(r"^dagster-slurm python (?P<python>\S+) pipes (?P<pipes>\S+)$", re.MULTILINE)
_ABSENT = "none"


def activation_of(world: World) -> Activation:
    """How the configured environment is entered.

    Raises:
        EnvironmentNotFoundError: There is none at that path.
    """
    path = world.asked.env_path
    if path is None:
        return CLUSTER_PYTHON
    path = world.absolute(path, "--env-path")
    return activate_deployed(path, world.cluster.environment_layout(path))


def probe_program() -> str:
    """The Python program that tells its version and that of dagster_pipes."""
    return shell_file("dagster_slurm.doctor", "python_facts.py")


def check_environment(world: World) -> Finding:
    """Whether the environment is there and can talk to Dagster."""
    world.log_in()
    activation = activation_of(world)
    answer = world.run("python", ["\n".join(activation.setup), activation.python, probe_program()])
    return judge_environment(activation, answer, named=world.asked.env_path is not None)


def judge_environment(activation: Activation, answer: CompletedCommand, *, named: bool) -> Finding:
    """Whether Python runs there, and finds dagster_pipes."""
    facts = _FACTS.search(answer.text)
    where = f"{activation.description}, on the login node"
    judge = wrong if named else warning
    if facts is None:
        said = answer.reason.splitlines()[-1:]
        problem = f"Python does not run in {where}: {said[0]}"
        return judge(
            _ENVIRONMENT, problem, _remedy(activation, "Repair it, or name another one with --env-path.", named=named)
        )
    found = f"{where}: Python {facts['python']}"
    if facts["pipes"] == _ABSENT:
        problem = f"Python {facts['python']} of {where}, has no dagster_pipes: payloads cannot report to Dagster"
        install = f"Run `{quote(activation.python)} -m pip install dagster-pipes` there."
        return judge(_ENVIRONMENT, problem, _remedy(activation, install, named=named))
    return fine(_ENVIRONMENT, f"{found}, dagster_pipes {facts['pipes']}")


def _remedy(activation: Activation, remedy: str, *, named: bool) -> str:
    return remedy if named else "Name an environment on the cluster with --env-path (pre_deployed_env_path)."


STEP = "job"
# A file on NFS is seen when the attributes of its directory are asked for anew, 60 s at most (nfs(5), acdirmax).
_PATIENCE = Patience(silent_seconds=65.0, unknown_seconds=65.0)
_NOTICEABLE_SKEW_SECONDS = 5.0
_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Probe:
    """What became of the job.

    Args:
        job_id: Slurm's id.
        submitted: When it was submitted, by the login node's clock.
        seen: When its start was seen, or nothing in time, by the login node's clock.
        start: The batch script's first line, if it was seen.
        end: Its last line, if it was seen.
        entry: The queue's last entry of it, if there was one.
        record: Its accounting, if there is one.
        output: What its payload printed, as it is seen from the login node.
        is_alive: Whether it is still in the queue.
    """

    job_id: str
    submitted: float
    seen: float
    start: StartMark | None
    end: EndMark | None
    entry: QueueEntry | None
    record: AccountingRecord | None
    output: str
    is_alive: bool


def check_job(world: World) -> Finding:
    """Submit a small job, follow it to its end, and look at what it left."""
    if not world.asked.job:
        return skipped(STEP, "only with --job, which submits a small one")
    name = f"dagster-slurm-doctor-{uuid.uuid4().hex[:12]}"
    directory = RunDirectory(world.cluster.base(), "doctor", name)
    activation = activation_of(world)
    script = batch_script(world.request, directory=directory, launch=_launch(activation, name))
    files = directory.files(script=script, env=env_file({}), context=b"{}", work=[])
    submitted = _time_there(world)
    job = JobHandle(directory, Claims(world.cluster).submit(directory, files))
    try:
        probe = _follow(world, job, submitted)
        if probe.is_alive:
            Canceller(world.cluster).carry_out(Order((), (job,)))
        world.job_output = probe.output
        return judge_job(probe, name)
    finally:
        directory.remove(world.cluster.transport)


def _launch(activation: Activation, name: str) -> str:
    shell = f'printf "%s\\n" {name}; sh -c "$3"; exec "$1" -c "$2"'
    of_sessions = shell_file("dagster_slurm.doctor", "session_step.sh")
    command = ("sh", "-c", shell, "sh", activation.python, probe_program(), of_sessions)
    return launch_script(LaunchPlan(activation.setup, command))


def _time_there(world: World) -> float:
    return float(world.gather("clock")["time"][0])


def _follow(world: World, job: JobHandle, submitted: float) -> Probe:
    """Wait for its end, or until it took too long; what is over is followed until it is known how it ended."""
    watcher = JobWatcher(world.cluster, patience=_PATIENCE)
    subscription = watcher.watch(job)
    until = time.monotonic() + world.asked.job_patience_seconds
    event = _next(subscription, until, Started, Ended, Broken)
    seen = _time_there(world)
    if isinstance(event, Started):
        event = _next(subscription, until, Ended, Broken)
    entry = world.cluster.queue([job.job_id]).get(job.job_id)
    is_alive = event is None and entry is not None and not entry.state.is_terminal
    if event is None and not is_alive:
        event = _next(subscription, time.monotonic() + 2 * _PATIENCE.silent_seconds, Ended, Broken)
    watcher.forget(subscription)
    if isinstance(event, Broken) and not isinstance(event.error, SubmissionUnknownError):
        raise event.error
    return _probe(world, job, submitted, seen, entry, is_alive=is_alive)


def _next(subscription: Subscription, until: float, *kinds: type[Event]) -> Event | None:
    """The next event of some kinds; None if there is none in time."""
    while (left := until - time.monotonic()) > 0:
        event = subscription.get(left)
        if isinstance(event, kinds):
            return event
    return None


def _probe(
    world: World, job: JobHandle, submitted: float, seen: float, entry: QueueEntry | None, *, is_alive: bool
) -> Probe:
    marks = _marks(world, job.directory)
    output = world.cluster.transport.read_from(f"{job.directory.path}/log/stdout.0", 0, _MAX_BYTES)
    records = world.cluster.accounting([job.job_id]) or {}
    return Probe(
        job_id=job.job_id,
        submitted=submitted,
        seen=seen,
        start=next((mark for mark in marks if isinstance(mark, StartMark)), None),
        end=next((mark for mark in marks if isinstance(mark, EndMark)), None),
        entry=entry,
        record=records.get(job.job_id),
        output=output.decode("utf-8", "replace"),
        is_alive=is_alive,
    )


def _marks(world: World, directory: RunDirectory) -> tuple[StartMark | EndMark, ...]:
    status = world.cluster.transport.read_from(f"{directory.path}/log/status", 0, _MAX_BYTES)
    marks = parse_marks(status.decode("utf-8", "replace"))[0]
    return tuple(mark for mark in marks if not isinstance(mark, OverMark))


def judge_job(probe: Probe, nonce: str) -> Finding:
    """Whether it ran, was seen, and found its Python."""
    if probe.end is None or probe.start is None:
        return _judge_unseen(probe)
    node, waited = probe.start.node, max(0.0, probe.start.at_epoch_seconds - probe.submitted)
    found = f"job {probe.job_id} on {node}, {waited:.1f} s in the queue, its output is seen on the login node"
    if nonce not in probe.output:
        return wrong(
            STEP,
            f"Job {probe.job_id} ran on {node}, and its output does not appear on the login node",
            "Choose a remote_base (SLURM_REMOTE_BASE) that login and compute nodes share.",
        )
    if probe.end.exit_code:
        return wrong(
            STEP,
            f"The environment's Python does not run on {node}: it ended with status {probe.end.exit_code}",
            "Choose an environment that the compute nodes see, or give one with --env-path.",
            found,
        )
    return _judge_clock(probe, probe.start, found)


def _judge_unseen(probe: Probe) -> Finding:
    known = probe.record or probe.entry
    state = known.state.value if known else "state unknown"
    if probe.is_alive:
        reason = f", reason {probe.entry.reason}" if probe.entry and probe.entry.reason else ""
        return warning(
            STEP,
            f"Job {probe.job_id} did not end within {probe.seen - probe.submitted:.0f} s ({state}{reason}), and was "
            "cancelled",
            "Try again when the queue is short, or with --job-timeout.",
        )
    node = f" on {known.node_list}" if known and known.node_list else ""
    return wrong(
        STEP,
        f"Job {probe.job_id} ended ({state}{node}), and nothing that it writes appears on the login node",
        "Choose a remote_base (SLURM_REMOTE_BASE) that login and compute nodes share.",
    )


def _judge_clock(probe: Probe, start: StartMark, found: str) -> Finding:
    """The job began between its submission and the look at its start; a node's clock that says otherwise is off."""
    at = start.at_epoch_seconds
    skew = at - probe.seen if at > probe.seen else min(0.0, at - probe.submitted)
    if abs(skew) < _NOTICEABLE_SKEW_SECONDS:
        return fine(STEP, f"{found}, its clock agrees with the login node's")
    ahead = "ahead of" if skew > 0 else "behind"
    return warning(
        STEP,
        f"The clock of {start.node} is {abs(skew):.0f} s {ahead} the login node's",
        "Tell the site: the times of jobs are misread.",
        found,
    )
