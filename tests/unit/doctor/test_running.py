"""The shell, the environment and the small job, as tables."""

from __future__ import annotations

import pytest

from dagster_slurm.cluster.description import EndMark, StartMark
from dagster_slurm.doctor.job import Probe, judge_environment, judge_job
from dagster_slurm.doctor.login import judge_shell
from dagster_slurm.doctor.world import read_facts
from dagster_slurm.environments import CLUSTER_PYTHON, activate_deployed
from dagster_slurm.transport import CompletedCommand


class TestShellAndPython:
    @pytest.mark.parametrize(
        ("text", "tty", "status", "said"),
        [
            ("shell /bin/bash\nnoise 0\nbash 5.2.15(1)\n", False, "ok", "/bin/bash, without a TTY, quiet; bash 5.2"),
            ("shell /bin/tcsh\nnoise 12\nbash 4.2\n", True, "ok", "with a TTY, prints 12 bytes by itself"),
            ("shell /bin/sh\nnoise 0\nbash \nmissing bash\nmissing tar\n", False, "wrong", "node: bash, tar"),
            ("shell /bin/sh\nnoise 0\nbash 3.2.57(1)-release\n", False, "wrong", "bash is 3.2.57"),
        ],
    )
    def test_shells(self, text: str, tty: bool, status: str, said: str) -> None:
        finding = judge_shell(read_facts(text), tty=tty)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"

    @pytest.mark.parametrize(
        ("stdout", "stderr", "named", "status", "said"),
        [
            (
                b"noise\ndagster-slurm python 3.11.2 pipes 1.13.0\n",
                b"",
                True,
                "ok",
                "Python 3.11.2, dagster_pipes 1.13.0",
            ),
            (b"dagster-slurm python 3.6.8 pipes none\n", b"", True, "wrong", "has no dagster_pipes"),
            (b"dagster-slurm python 3.6.8 pipes none\n", b"", False, "warning", "has no dagster_pipes"),
            (b"", b"bash: python3: command not found", False, "warning", "command not found"),
            (b"", b"", True, "wrong", "ended with status 1"),
        ],
    )
    def test_python(self, stdout: bytes, stderr: bytes, named: bool, status: str, said: str) -> None:
        activation = activate_deployed("/env", "prefix") if named else CLUSTER_PYTHON
        finding = judge_environment(activation, CompletedCommand(stdout, stderr, 1), named=named)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"


class TestJob:
    @staticmethod
    def probe(*, start: float | None = 101.0, code: int = 0, output: str = "nonce\n", is_alive: bool = False) -> Probe:
        mark = None if start is None else StartMark("7", 0, start, "n1")
        end = None if start is None else EndMark("7", 0, code, start + 1, {})
        return Probe("7", 100.0, 104.0, mark, end, None, None, output, is_alive)

    @pytest.mark.parametrize(
        ("changes", "status", "said"),
        [
            ({}, "ok", "job 7 on n1, 1.0 s in the queue"),
            ({"start": 108.9}, "ok", "its clock agrees"),
            ({"start": 109.0}, "warning", "The clock of n1 is 5 s ahead of"),
            ({"start": 40.0}, "warning", "The clock of n1 is 60 s behind"),
            ({"code": 127}, "wrong", "ended with status 127"),
            ({"output": ""}, "wrong", "its output does not appear"),
            ({"start": None}, "wrong", "nothing that it writes appears"),
            ({"start": None, "is_alive": True}, "warning", "did not end within 4 s"),
        ],
    )
    def test_what_became_of_it(self, changes: dict[str, object], status: str, said: str) -> None:
        finding = judge_job(self.probe(**changes), "nonce")  # type: ignore[arg-type]
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"
