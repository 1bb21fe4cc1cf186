"""The batch script on a real Slurm: its gate, its end, its signals, and submitting exactly once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from uuid import uuid4

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.description import EndMark, StartMark, parse_marks
from dagster_slurm.errors import InvalidRequestError, SubmissionRejectedError
from dagster_slurm.job.batch_script import batch_script, env_file
from dagster_slurm.launchers import Hook, LaunchPlan, launch_script
from dagster_slurm.run_directory import LaunchKey, RunDirectory
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.slurm import commands
from dagster_slurm.slurm.output import AccountingRecord, parse_sacct
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.slurm.states import JobState
from dagster_slurm.transport import OpenSSHTransport, SSHConnection, TreeEntry
from tests.ssh import connection_of, control_directory
from tests.support import forked
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

# slurm.conf(5), KillWait: how long Slurm itself waits for what a batch script leaves behind.
KILL_WAIT_SECONDS = 30.0
REQUEST: dict[str, object] = {"time_limit": "5", "mem": "64M", "cpus": 1}

# Writes down, for each start of the job, which functions are called; and has a process that has to be ended.
TRACES = Hook(
    "traced",
    """
traced_write() { echo "$1" >>"$place/traced.$restart"; }
traced_begin() { sleep 1000 & traced_pid=$!; traced_write begin; }
traced_enter() { traced_write enter; }
traced_end() { kill -0 "$traced_pid" && kill "$traced_pid" && traced_write end; }
traced_leave() { traced_write leave; }
""",
)
TRACED = "begin\nenter\nend\nleave\n"

SUBMIT = """
import sys
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.transport import OpenSSHTransport, SSHConnection
host, port, user, key_path, known_hosts_file, control_dir, base, run, key = sys.argv[1:]
connection = SSHConnection(host, int(port), user, key_path, "strict", known_hosts_file, control_dir=control_dir)
cluster = SlurmCluster(OpenSSHTransport(connection), remote_base=base)
print(Claims(cluster).submit(RunDirectory(base, run, key)))
"""


@dataclass
class Launch:
    """One run directory and the jobs submitted from it."""

    site: Site
    key: LaunchKey
    directory: RunDirectory

    def submit(self, generation: int = 0) -> str:
        return Claims(self.site.cluster).submit(self.directory, generation=generation)

    def read(self, name: str) -> str:
        path = f"{self.directory.path}/{name}"
        return self.site.transport.read_from(path, 0, 1 << 20).decode()

    def marks(self) -> list[StartMark | EndMark]:
        return list(parse_marks(self.read("log/status"))[0])

    def ends(self) -> list[EndMark]:
        return [mark for mark in self.marks() if isinstance(mark, EndMark)]

    def run(self) -> AccountingRecord:
        return self.site.ended(self.submit())


@dataclass
class Site:
    """The sandbox as a job's life sees it."""

    transport: OpenSSHTransport
    cluster: SlurmCluster

    def launch(self, payload: str, *hooks: Hook, env: dict[str, str] | None = None, **settings: object) -> Launch:
        key = LaunchKey(uuid4().hex, 'it\'s a "step" $(x)')
        directory = key.first_attempt(self.cluster.base())
        plan = LaunchPlan((), ("bash", "./payload.sh"), hooks)
        request = merge(REQUEST, settings)
        script = batch_script(request, directory=directory, launch=launch_script(plan))
        work = [TreeEntry("payload.sh", payload.encode())]
        files = directory.files(script=script, env=env_file(env or {}), context=b"{}", work=work)
        self.transport.put_tree(files, directory.path)
        return Launch(self, key, directory)

    def ended(self, job_id: str, seconds: float = 90.0) -> AccountingRecord:
        """What the accounting says when the job has ended."""
        records: dict[str, AccountingRecord] = {}

        def over() -> bool:
            records.update(self.cluster.accounting([job_id]) or {})
            return job_id in records and records[job_id].state.is_terminal

        eventually(over, lambda: f"the end of job {job_id}: {records}", seconds=seconds)
        return records[job_id]

    def left_queue(self, job_id: str) -> bool:
        """Whether it holds nothing any more; COMPLETING is no end."""
        entry = self.cluster.queue([job_id]).get(job_id)
        return entry is None or entry.state.is_terminal

    def shell(self, *argv: str) -> str:
        done = self.transport.command(argv)
        assert done.returncode == 0, done.error_text
        return done.text


@pytest.fixture(scope="module")
def connection(sandbox: Sandbox) -> Iterator[SSHConnection]:
    with control_directory() as control_dir:
        yield connection_of(sandbox.env(), control_dir=control_dir)


@pytest.fixture(scope="module")
def site(connection: SSHConnection) -> Iterator[Site]:
    transport = OpenSSHTransport(connection)
    base = transport.run('mktemp -d ~/"batch 100% it\'s XXXXXX"').text.strip()
    yield Site(transport, SlurmCluster(transport, remote_base=base))
    transport.command(["rm", "-rf", "--", base])
    transport.disconnect()


class TestTheEnd:
    """How a payload ends is how its job ends, and nothing outlives it."""

    @pytest.mark.parametrize(
        ("payload", "code", "state"),
        [
            ("exit 0", 0, JobState.COMPLETED),
            ("echo out; echo err >&2; exit 7", 7, JobState.FAILED),
            ("kill -KILL $$", 137, JobState.FAILED),
            ("exec no-such-program", 127, JobState.FAILED),
        ],
        ids=["success", "exit 7", "killed", "missing program"],
    )
    def test_the_exit_code_of_the_payload_is_slurm_s(
        self, site: Site, payload: str, code: int, state: JobState
    ) -> None:
        launch = site.launch(payload)
        record = launch.run()
        assert record.state is state
        # Slurm 22.05 shows a status of 137 as 9:0, as if the payload had exited with 9.
        assert record.exit_code in (code, code - 128)
        assert [end.exit_code for end in launch.ends()] == [code]

    def test_streams_and_marks(self, site: Site) -> None:
        launch = site.launch(
            "printf out; printf err >&2; printf message >>../log/messages; printf '%s' \"$SLURM_JOB_ID\" >id; exit 3"
        )
        record = launch.run()
        job_id = launch.read("work/id")
        assert (launch.read("log/stdout.0"), launch.read("log/stderr.0")) == ("out", "err")
        assert launch.read("log/messages.0") == launch.read("log/messages") == "message"
        start, end = launch.marks()
        assert isinstance(start, StartMark)
        assert isinstance(end, EndMark)
        assert (start.job_id, start.restart, start.node) == (job_id, 0, record.node_list)
        assert (end.job_id, end.exit_code, end.bytes_of) == (job_id, 3, {"stdout": 3, "stderr": 3, "messages": 7})
        assert launch.read("log/slurm.log") == ""

    @pytest.mark.parametrize(
        "behind",
        [
            "sleep 300 &",
            "setsid sleep 300 >/dev/null 2>&1 </dev/null &",
            "setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' >/dev/null 2>&1 </dev/null &",
            "(setsid sh -c 'sleep 300 & sleep 300' &)",
        ],
        ids=["child", "daemon", "ignores TERM", "grandchildren"],
    )
    def test_what_the_payload_leaves_behind_is_gone_and_holds_nothing_up(self, site: Site, behind: str) -> None:
        launch = site.launch(f"{behind}\nsleep 0.3; date +%s.%N >done; exit 4")
        job_id = launch.submit()
        eventually(lambda: site.left_queue(job_id), seconds=2 * KILL_WAIT_SECONDS)
        seconds = float(site.shell("date", "+%s.%N")) - float(launch.read("work/done"))
        assert seconds < KILL_WAIT_SECONDS / 2
        assert site.ended(job_id).exit_code == 4
        look = 'grep -lszxF -- "SLURM_JOB_ID=$1" /proc/[0-9]*/environ || true'
        assert site.transport.run(look, [job_id]).text == ""

    def test_cancelled_while_running(self, site: Site) -> None:
        launch = site.launch("trap 'echo stopped; exit 0' TERM; touch up; while :; do sleep 0.1; done", TRACES)
        job_id = launch.submit()
        eventually(lambda: "up" in site.shell("ls", launch.directory.work).split())
        began = time.monotonic()
        site.cluster.cancel([job_id])
        site.cluster.cancel([job_id])
        assert site.ended(job_id).state is JobState.CANCELLED
        # sacct tells the end before the payload has had its time to stop.
        eventually(lambda: site.left_queue(job_id))
        assert time.monotonic() - began < KILL_WAIT_SECONDS / 2
        assert launch.read("log/stdout.0") == "stopped\n"
        assert launch.read("traced.0") == TRACED
        assert len(launch.ends()) == 1

    def test_cancelled_before_the_payload_was_started(self, site: Site) -> None:
        slow = Hook("slow", 'slow_begin() { touch "$place/work/up"; while :; do sleep 0.1; done; }')
        launch = site.launch("touch ran", TRACES, slow)
        job_id = launch.submit()
        eventually(lambda: "up" in site.shell("ls", launch.directory.work).split())
        site.cluster.cancel([job_id])
        assert site.ended(job_id).state is JobState.CANCELLED
        eventually(lambda: site.left_queue(job_id))
        assert "ran" not in site.shell("ls", launch.directory.work).split()
        assert launch.read("traced.0") == TRACED.replace("enter\n", "")
        assert [end.exit_code for end in launch.ends()] == [128 + 15]

    def test_usr1_before_the_time_limit_reaches_the_payload(self, site: Site) -> None:
        payload = "trap 'echo warned; exit 9' USR1; sleep 100 & while :; do wait; done"
        # Slurm sends it up to a minute early (sbatch(1), --signal).
        launch = site.launch(payload, time_limit="1", signal_before_timeout="B:USR1@55")
        record = launch.run()
        assert launch.read("log/stdout.0") == "warned\n"
        assert record.exit_code == 9
        assert [end.exit_code for end in launch.ends()] == [9]

    def test_a_signal_that_the_payload_ignores_does_not_end_the_job(self, site: Site) -> None:
        launch = site.launch(
            "trap 'echo usr2' USR2; touch up; for n in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; done; exit 6"
        )
        job_id = launch.submit()
        eventually(lambda: "up" in site.shell("ls", launch.directory.work).split())
        site.shell("scancel", "--signal=USR2", "--batch", job_id)
        assert site.ended(job_id).exit_code == 6
        assert launch.read("log/stdout.0") == "usr2\n"


class TestTheGate:
    """One job runs the payload, whatever is submitted."""

    def test_a_second_job_of_the_same_script_runs_nothing(self, site: Site) -> None:
        launch = site.launch("echo ran >>runs; sleep 1; exit 5")
        first = launch.submit()
        assert site.ended(first).exit_code == 5
        second = site.shell("sbatch", "--parsable", launch.directory.script).strip()
        record = site.ended(second)
        assert (record.state, record.exit_code) == (JobState.COMPLETED, 0)
        assert launch.read("work/runs") == "ran\n"
        assert [mark.job_id for mark in launch.marks()] == [first, first]
        assert f"job {first} runs this payload" in launch.read("log/slurm.log")

    def test_of_many_jobs_at_once_one_runs(self, site: Site) -> None:
        launch = site.launch("echo ran >>runs; sleep 1")
        site.shell("mkdir", "-p", launch.directory.claim(0))
        jobs = [site.shell("sbatch", "--parsable", launch.directory.script).strip() for _ in range(4)]
        assert {site.ended(job_id).state for job_id in jobs} == {JobState.COMPLETED}
        assert launch.read("work/runs") == "ran\n"
        assert len({mark.job_id for mark in launch.marks()}) == 1

    @pytest.mark.timeout(240)
    def test_the_same_job_requeued_runs_again_with_files_of_its_own(self, site: Site) -> None:
        launch = site.launch("echo run; [ -e second ] || { touch second up; sleep 100; }; exit 2", TRACES)
        job_id = launch.submit()
        eventually(lambda: "up" in site.shell("ls", launch.directory.work).split())
        site.shell("scontrol", "requeue", job_id)
        # It would wait for two minutes; but slurmd refuses a job that it has ended in the very same second (22.05, "Job
        # credential revoked").
        time.sleep(1.1)
        eventually(lambda: site.cluster.queue([job_id])[job_id].state is JobState.PENDING)
        site.shell("scontrol", "update", f"jobid={job_id}", "starttime=now")
        # Until then the accounting tells the end of the first incarnation.
        eventually(lambda: len(launch.ends()) == 2, seconds=180)
        assert site.ended(job_id).exit_code == 2
        assert (launch.read("log/stdout.0"), launch.read("log/stdout.1")) == ("run\n", "run\n")
        assert [launch.read(f"traced.{restart}") for restart in (0, 1)] == [TRACED, TRACED]
        assert [(mark.job_id, mark.restart) for mark in launch.marks()] == [
            (job_id, 0),
            (job_id, 0),
            (job_id, 1),
            (job_id, 1),
        ]
        assert [end.exit_code for end in launch.ends()] == [128 + 15, 2]

    def test_a_job_that_is_requeued_after_a_good_end_executes_nothing(self, site: Site) -> None:
        """Whoever has seen that end has gone on."""
        launch = site.launch("echo run >>ran")
        job_id = launch.submit()
        assert site.ended(job_id).state is JobState.COMPLETED
        (end,) = launch.ends()
        assert end.is_proof
        eventually(lambda: site.left_queue(job_id))
        time.sleep(1.1)
        site.shell("scontrol", "requeue", job_id)
        site.shell("scontrol", "update", f"jobid={job_id}", "starttime=now")
        eventually(lambda: "before this job was requeued" in launch.read("log/slurm.log"), seconds=90)
        assert site.ended(job_id).state is JobState.COMPLETED
        assert (launch.ends(), launch.read("work/ran")) == ([end], "run\n")

    def test_an_end_line_tells_what_slurm_does(self, site: Site) -> None:
        """Of a job that is told to end, and of the memory and the processor that the steps of a good one have used."""
        stopped = site.launch("trap 'exit 0' TERM; touch up; while :; do sleep 0.1; done")
        measured = site.launch("srun perl -e 'my $x = q(a) x (40 << 20); sleep 3'", mem="200M")
        job_id, other = stopped.submit(), measured.submit()
        eventually(lambda: "up" in site.shell("ls", stopped.directory.work).split())
        site.shell("scancel", job_id)
        site.ended(job_id)
        (end,) = stopped.ends()
        assert (end.exit_code, end.figures.told, end.is_proof) == (0, "TERM", False)
        record = site.ended(other)
        (good,) = measured.ends()
        told = good.figures
        assert (told.nodes, told.cpus, told.mem_mib, told.killed, told.told) == (1, 1, 200, 0, "")
        assert told.memory_bytes is not None and 40 << 20 <= told.memory_bytes < 120 << 20
        assert told.submitted_at is not None and record.submit_time is not None
        assert abs(told.submitted_at - record.submit_time.timestamp()) < 3
        # Its step was seen, and no control group counts its CPU time here.
        assert told.cpu_seconds is None or told.cpu_seconds > 0

    def test_a_claim_that_vanished_runs_nothing(self, site: Site) -> None:
        launch = site.launch("echo ran >../ran")
        job_id = site.shell("sbatch", "--parsable", "--hold", launch.directory.script).strip()
        site.shell("rm", "-rf", launch.directory.claim(0))
        site.shell("scontrol", "release", job_id)
        record = site.ended(job_id)
        assert (record.state, record.exit_code) == (JobState.FAILED, 75)
        assert "not known whether another job runs this payload; nothing was run" in launch.read("log/slurm.log")
        assert launch.marks() == []
        assert launch.read("ran") == ""

    def test_a_run_directory_that_vanished_runs_nothing(self, site: Site) -> None:
        launch = site.launch(f"touch {site.shell('mktemp', '-u', '/tmp/ran-XXXXXX')}")
        job_id = site.shell("sbatch", "--parsable", "--hold", launch.directory.script).strip()
        site.shell("rm", "-rf", launch.directory.path)
        site.shell("scontrol", "release", job_id)
        assert not site.ended(job_id).state.is_success
        assert site.transport.command(["ls", launch.directory.path]).returncode != 0


class TestWhatThePayloadSees:
    """The payload's surroundings are the login's and its own, not the channel's."""

    def test_umask_and_language_are_the_login_s(self, site: Site) -> None:
        launch = site.launch("umask; echo \"${LANGUAGE-unset}\"; env | grep -c '^SBATCH_' || true; pwd")
        launch.run()
        login = site.transport.run('printf "%s\\n%s\\n" "$login_umask" "${login_language:-unset}"').text
        assert launch.read("log/stdout.0") == f"{login}0\n{launch.directory.work}\n"
        assert int(login.split()[0], 8) != 0o077

    def test_variables_with_hostile_values_arrive_unchanged(self, site: Site) -> None:
        env = {
            "PLAIN": "x",
            "EMPTY": "",
            "QUOTES": 'it\'s "x" $HOME `id` $(id)',
            "LINES": "a\n\nb\\n\n",
            "_UNICODE": "é日本 😀",
            "BLANKS": "  x\t",
        }
        launch = site.launch(
            "for name in PLAIN EMPTY QUOTES LINES _UNICODE BLANKS; do printf '%s\\0' \"${!name}\"; done", env=env
        )
        launch.run()
        assert launch.read("log/stdout.0").split("\0")[:-1] == list(env.values())

    def test_files_are_private(self, site: Site) -> None:
        launch = site.launch("true", env={"TOKEN": "secret"})
        launch.run()
        modes = site.shell("stat", "-c", "%a", "--", launch.directory.path, launch.directory.env_file).split()
        assert modes == ["700", "600"]
        assert "secret" not in launch.read("job.sh")
        outputs = [f"{launch.directory.path}/log/{name}" for name in ("stdout.0", "status")]
        assert site.shell("stat", "-c", "%a", "--", *outputs).split() == ["600", "600"]


class TestSubmitting:
    """Submitting is done once, and refusals leave nothing behind."""

    def test_whoever_asks_again_gets_the_same_job(self, site: Site) -> None:
        launch = site.launch("echo ran >>runs")
        first = launch.submit()
        assert [launch.submit() for _ in range(3)] == [first] * 3
        site.ended(first)
        assert launch.submit() == first
        assert launch.read("work/runs") == "ran\n"

    def test_threads_and_processes_at_the_same_moment(
        self, sandbox: Sandbox, connection: SSHConnection, site: Site
    ) -> None:
        launch = site.launch("echo ran >>runs")
        fields = (connection.host, connection.port, connection.user, connection.key_path)
        where = (connection.known_hosts_file, connection.control_dir)
        at = (launch.directory.base, launch.directory.run, launch.directory.key)
        argv = [sys.executable, "-c", SUBMIT, *map(str, (*fields, *where, *at))]
        processes = [forked.start(argv, stdout=subprocess.PIPE) for _ in range(3)]
        with ThreadPoolExecutor(4) as threads:
            from_threads = list(threads.map(lambda _: launch.submit(), range(4)))
        from_processes = [process.communicate(timeout=60)[0].strip() for process in processes]
        assert len({*from_threads, *from_processes}) == 1
        site.ended(from_threads[0])
        assert launch.read("work/runs") == "ran\n"
        named = commands.sacct_by_name(launch.directory.job_name(), datetime.now(timezone.utc) - timedelta(hours=1))
        # A job that ends at once has no name in the accounting until its start is recorded, too.
        eventually(lambda: from_threads[0] in parse_sacct(site.shell(*named)))
        assert set(parse_sacct(site.shell(*named))) == {from_threads[0]}

    def test_another_generation_is_another_job(self, site: Site) -> None:
        launch = site.launch("true")
        assert launch.submit(0) != launch.submit(1)

    def test_the_job_has_its_name(self, site: Site) -> None:
        launch = site.launch("true")
        job_id = launch.submit()
        assert site.cluster.queue([job_id])[job_id].name == launch.directory.job_name()

    @pytest.mark.parametrize(
        ("settings", "names"),
        [
            ({"partition": "nosuch"}, "compute"),
            ({"account": "nosuch"}, "nosuch"),
            ({"qos": "nosuch"}, "nosuch"),
            ({"mem": "900T"}, ""),
            ({"gres": "gpu:h100:4"}, ""),
            ({"partition": "debug", "time_limit": "1-0"}, ""),
        ],
        ids=str,
    )
    def test_what_slurm_refuses_is_refused_before_anything_is_uploaded(
        self, site: Site, settings: dict[str, object], names: str
    ) -> None:
        request: JobRequest = merge(REQUEST, settings)
        queued = site.shell("squeue", "--me", "--noheader", "--format=%A %j")
        before = site.transport.run('ls -A "$1" 2>/dev/null', [f"{site.cluster.base()}/runs"]).text
        with pytest.raises(SubmissionRejectedError) as caught:
            site.cluster.check(request)
        assert isinstance(caught.value, InvalidRequestError)
        assert caught.value.hint
        assert names in str(caught.value)
        assert site.transport.run('ls -A "$1" 2>/dev/null', [f"{site.cluster.base()}/runs"]).text == before
        now = site.shell("squeue", "--me", "--noheader", "--format=%A %j")
        assert "dagster-slurm-test" not in now, queued

    def test_what_slurm_takes_is_asked_about_once(self, site: Site, sandbox: Sandbox) -> None:
        request = merge(REQUEST, {"comment": uuid4().hex})
        before = sandbox.rpc_counts().get("REQUEST_JOB_WILL_RUN", 0)
        for _ in range(50):
            site.cluster.check(request)
        assert sandbox.rpc_counts()["REQUEST_JOB_WILL_RUN"] - before == 1

    def test_a_refusal_at_submission_is_the_same_for_whoever_asks_again(self, site: Site) -> None:
        launch = site.launch("true", partition="nosuch")
        for _ in range(2):
            with pytest.raises(SubmissionRejectedError, match="partition"):
                launch.submit()
