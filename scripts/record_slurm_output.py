#!/usr/bin/env python3
"""Record what the sandbox cluster's Slurm prints, for tests/unit/slurm/test_recorded.py.

Usage: record_slurm_output.py [--only CASE ...]. Needs root and a sandbox that is up (`dagster-slurm sandbox up`).
Every answer becomes tests/recorded/<Slurm's version>/<case>.<command>.json with argv, returncode, stdout and stderr.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from dagster_slurm.sandbox import Sandbox
from dagster_slurm.slurm import commands
from dagster_slurm.slurm.output import parse_job_id, parse_sacct, parse_slurm_version, parse_squeue
from dagster_slurm.slurm.request import merge, render_script
from dagster_slurm.slurm.states import JobState

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "recorded"
STATE = "/var/lib/dagster-slurm-sandbox/default"
_UNKNOWN_DEPENDENCY_REFUSED_SINCE = (24, 11)
SMALL = {"cpus": 1, "mem": "100M", "time": "5"}
Layer = dict[str, object]


def _sbatch(path: str, name: str) -> commands.Argv:
    return (*commands.sbatch(), f"--job-name={name}", path)


class Recorder:
    """Runs Slurm's commands as the sandbox's user and keeps what they answer."""

    def __init__(self, sandbox: Sandbox, scripts: Path) -> None:
        self.sandbox = sandbox
        self.scripts = scripts
        answer = self.run(commands.sinfo_version())
        self._folder = RECORDED / answer.stdout.split()[-1]
        self._folder.mkdir(parents=True, exist_ok=True)
        self.version = parse_slurm_version(answer.stdout)

    def run(self, argv: Sequence[str], stdin: str | None = None, **options: str) -> subprocess.CompletedProcess[str]:
        return self.sandbox.run(list(argv), input=stdin or "", **options)  # type: ignore[arg-type]

    def record(self, case: str, argv: Sequence[str], stdin: str | None = None) -> str:
        answer = self.run(argv, stdin)
        command = next(word for word in argv if word in {"sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo"})
        kept = {
            "argv": [self._usual(str(word)) for word in argv],
            "returncode": answer.returncode,
            "stdout": self._usual(answer.stdout),
            "stderr": self._usual(answer.stderr),
        }
        self.keep(f"{case}.{command}.json", json.dumps(kept, indent=2) + "\n")
        return answer.stdout

    def _usual(self, text: str) -> str:
        """The text with the usual paths in place of those that this run alone has."""
        return text.replace(str(self.scripts), "/scripts").replace(str(self.sandbox.paths.state_dir), STATE)

    def keep(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def script(self, case: str, body: str, layer: Layer, raw: Sequence[str] = ()) -> str:
        text = render_script(merge(SMALL, layer), output_path="/dev/null", body=body)
        head, rest = text.split("\n", 1)
        path = self.scripts / f"{case}.sh"
        path.write_text("\n".join([head, *(f"#SBATCH {line}" for line in raw), rest]))
        return str(path)

    def submit(self, case: str, body: str, layer: Layer | None = None, raw: Sequence[str] = ()) -> str:
        argv = _sbatch(self.script(case, body, layer or {}, raw), f"record-{case}")
        return parse_job_id(self.record(case, argv))

    def wait(self, job_id: str, *states: JobState, seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if any(entry.state in states for entry in parse_squeue(self.run(commands.squeue([job_id])).stdout)):
                return
            time.sleep(0.3)
        raise TimeoutError(f"job {job_id} is not in {states}")

    def wait_accounted(self, job_id: str, count: int = 1, seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            records = parse_sacct(self.run(commands.sacct([job_id])).stdout)
            if len(records) >= count and all(record.state.is_terminal for record in records.values()):
                return
            time.sleep(0.5)
        raise TimeoutError(f"job {job_id} is not accounted for")

    def record_end(self, case: str, job_id: str, count: int = 1) -> None:
        self.wait_accounted(job_id, count)
        time.sleep(2)
        self.record(case, commands.sacct([job_id], self.version))
        self.record(case, commands.squeue([job_id]))

    def as_root(self, *argv: str) -> None:
        self.run(argv, user="root").check_returncode()


def _ends(body: str, **layer: object) -> Callable[[Recorder, str], None]:
    return lambda recorder, case: recorder.record_end(case, recorder.submit(case, body, layer))


def _rejected(*raw: str, **layer: object) -> Callable[[Recorder, str], None]:
    def run(recorder: Recorder, case: str) -> None:
        recorder.record(case, _sbatch(recorder.script(case, "true", layer, raw), f"record-{case}"))

    return run


def _tested(**layer: object) -> Callable[[Recorder, str], None]:
    def run(recorder: Recorder, case: str) -> None:
        text = Path(recorder.script(case, "true", layer)).read_text()
        recorder.record(case, commands.sbatch_test_only(), stdin=text)

    return run


def _cancelled_running(recorder: Recorder, case: str) -> None:
    job_id = recorder.submit(case, "sleep 300")
    recorder.wait(job_id, JobState.RUNNING)
    recorder.record(f"{case}-while-running", commands.squeue([job_id]))
    recorder.record(case, commands.scancel([job_id]))
    recorder.record_end(case, job_id)


def _held(recorder: Recorder, case: str) -> None:
    job_id = recorder.submit(case, "true", {"hold": True})
    recorder.record(case, commands.squeue([job_id]))
    recorder.record(case, commands.scontrol_show_job(job_id))
    recorder.record(f"{case}-by-name", commands.squeue_by_name(f"record-{case}"))
    recorder.record("cancelled-pending", commands.scancel_by_name(f"record-{case}"))
    recorder.record_end("cancelled-pending", job_id)
    since = datetime.now(timezone.utc) - timedelta(hours=1)
    recorder.record(f"{case}-by-name", commands.sacct_by_name(f"record-{case}", since, recorder.version))


def _pending(recorder: Recorder, case: str) -> None:
    first = recorder.submit(f"{case}-blocker", "sleep 300", {"exclusive": True, "nodes": 3})
    recorder.wait(first, JobState.RUNNING)
    second = recorder.submit(case, "true")
    time.sleep(6)
    recorder.record(case, commands.squeue([first, second]))
    recorder.run(commands.scancel([first, second]))


def _dependency_on_unknown_job(recorder: Recorder, case: str) -> None:
    script = recorder.script(case, "true", {"dependency": "afterok:999999"})
    answer = recorder.record(case, _sbatch(script, f"record-{case}"))
    if recorder.version >= _UNKNOWN_DEPENDENCY_REFUSED_SINCE:
        return
    job_id = parse_job_id(answer)
    time.sleep(6)
    recorder.record(case, commands.squeue([job_id]))
    recorder.run(commands.scancel([job_id]))


def _suspended(recorder: Recorder, case: str) -> None:
    job_id = recorder.submit(case, "sleep 300")
    recorder.wait(job_id, JobState.RUNNING)
    recorder.as_root("scontrol", "suspend", job_id)
    recorder.record(case, commands.squeue([job_id]))
    recorder.record(case, commands.sacct([job_id], recorder.version))
    recorder.as_root("scontrol", "resume", job_id)
    recorder.run(commands.scancel([job_id]))


def _requeued(recorder: Recorder, case: str) -> None:
    job_id = recorder.submit(case, 'test "$SLURM_RESTART_COUNT" && exit 3; sleep 300', {"requeue": True})
    recorder.wait(job_id, JobState.RUNNING)
    time.sleep(1)
    recorder.run(("scontrol", "requeue", job_id)).check_returncode()
    recorder.wait(job_id, JobState.PENDING)
    recorder.record(f"{case}-waiting", commands.squeue([job_id]))
    recorder.record(f"{case}-waiting", commands.sacct([job_id], recorder.version))
    recorder.wait(job_id, JobState.FAILED, seconds=240)
    recorder.record_end(case, job_id)


def _array(recorder: Recorder, case: str) -> None:
    job_id = recorder.submit(case, "exit $SLURM_ARRAY_TASK_ID", {"hold": True}, raw=("--array=0-2%1",))
    recorder.record(f"{case}-held", commands.squeue([job_id]))
    recorder.as_root("scontrol", "release", job_id)
    recorder.record_end(case, job_id, count=3)


def _unreachable(recorder: Recorder, case: str) -> None:
    slurm_conf = Path(recorder.sandbox.slurm_env()["SLURM_CONF"])
    lines = [line for line in slurm_conf.read_text().splitlines() if not line.lower().startswith("slurmctldport")]
    lines = [line for line in lines if not line.lower().startswith("accountingstorageport")]
    other = recorder.scripts / "slurm.conf"
    other.write_text("\n".join([*lines, "SlurmctldPort=9", "AccountingStoragePort=9", "MessageTimeout=5", ""]))
    elsewhere = ("env", f"SLURM_CONF={other}")
    for argv in (commands.squeue(["1"]), commands.sacct(["1"]), commands.scontrol_show_job("1")):
        recorder.record(case, (*elsewhere, *argv))
    recorder.record(case, (*elsewhere, *_sbatch(recorder.script(case, "true", {}), "record")))


def _no_accounting(recorder: Recorder, case: str) -> None:
    other = recorder.scripts / "no-accounting.conf"
    other.write_text("ClusterName=other\nSlurmctldHost=localhost\n")
    recorder.record(case, ("env", f"SLURM_CONF={other}", *commands.sacct(["1"])))


def _unknown_job(recorder: Recorder, case: str) -> None:
    for argv in (commands.squeue(["999999"]), commands.sacct(["999999"]), commands.scancel(["999999"])):
        recorder.record(case, argv)
    recorder.record(case, commands.scontrol_show_job("999999"))
    recorder.record("unknown-jobs", commands.squeue(["999998", "999999"]))
    recorder.record("no-such-name", commands.squeue_by_name("no-such-name"))
    since = datetime.now(timezone.utc) - timedelta(hours=1)
    recorder.record("no-such-name", commands.sacct_by_name("no-such-name", since))


def _version(recorder: Recorder, case: str) -> None:
    recorder.record(case, commands.sinfo_version())


def _reasons(recorder: Recorder, case: str) -> None:
    (library,) = Path("/usr/lib").glob("*/slurm-wlm/libslurmfull.so")
    argv = [sys.executable, str(Path(__file__).with_name("print_reasons.py")), str(library)]
    recorder.keep(f"{case}.txt", subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


_STEPS = "srun -n2 bash -c 'x=$(head -c 60000000 /dev/zero | tr \"\\0\" x); sleep 4; exit 0'; sleep 1"

CASES: dict[str, Callable[[Recorder, str], None]] = {
    "version": _version,
    "reasons": _reasons,
    "completed": _ends("sleep 1"),
    "failed-exit-7": _ends("exit 7"),
    "killed-by-signal": _ends("kill -KILL $$"),
    "out-of-memory": _ends("head -c 400M /dev/zero | tail", mem="50M"),
    "timeout": _ends("sleep 300", time="1"),
    "two-nodes-with-steps": _ends(_STEPS, nodes=2, mem=None, mem_per_cpu="200M"),
    "failed-step": _ends("srun bash -c 'exit 9'; exit 0"),
    "cancelled-running": _cancelled_running,
    "held": _held,
    "suspended": _suspended,
    "requeued": _requeued,
    "array": _array,
    "dependency-on-unknown-job": _dependency_on_unknown_job,
    "pending": _pending,
    "unknown-job": _unknown_job,
    "unreachable": _unreachable,
    "no-accounting": _no_accounting,
    "wrong-partition": _rejected(partition="nosuch"),
    "wrong-account": _rejected(account="nosuch"),
    "wrong-qos": _rejected(qos="nosuch"),
    "wrong-gres": _rejected(gres="gpu:1"),
    "wrong-gpus": _rejected(gpus_per_node=1),
    "wrong-constraint": _rejected(constraint="nosuch"),
    "wrong-reservation": _rejected(reservation="nosuch"),
    "wrong-node": _rejected(nodelist="nosuch"),
    "wrong-dependency": _rejected(dependency="afterok:x"),
    "wrong-license": _rejected(licenses="nosuch"),
    "wrong-begin": _rejected(begin="nosuch"),
    "unknown-option": _rejected("--nosuch=1"),
    "invalid-value": _rejected("--mem=4GiB"),
    "too-much-memory": _rejected(mem="900G"),
    "too-many-cpus": _rejected(cpus=900),
    "too-many-nodes": _rejected(nodes=90),
    "too-long": _rejected(time="9-00"),
    "too-long-for-partition": _rejected(partition="debug", time="1:00:00"),
    "tested-accepted": _tested(),
    "tested-wrong-partition": _tested(partition="nosuch"),
    "tested-wrong-account": _tested(account="nosuch"),
    "tested-too-much-memory": _tested(mem="900G"),
}


def _run(recorder: Recorder, case: str, failures: list[str]) -> None:
    try:
        CASES[case](recorder, case)
    except Exception as error:  # noqa: BLE001 - one case that fails must not lose the others
        failures.append(f"{case}: {error!r}")


def main() -> None:
    """Record the cases, those that wait in threads of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    chosen = parser.parse_args().only
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        recorder = Recorder(Sandbox(), Path(folder))
        together = [case for case in chosen if case != "pending"]
        threads = [threading.Thread(target=_run, args=(recorder, case, failures)) for case in together]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if "pending" in chosen:
            _run(recorder, "pending", failures)
    raise SystemExit("\n".join(failures) or 0)


if __name__ == "__main__":
    main()
