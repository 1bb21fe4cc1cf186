"""Findings as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dagster_slurm.cli import main
from dagster_slurm.doctor import STEPS
from dagster_slurm.doctor.finding import (
    Finding,
    as_json,
    fine,
    lines_of,
    lines_of_skipped,
    overall,
    skipped,
    summary,
    warning,
    wrong,
)
from dagster_slurm.errors import DagsterSlurmError

FINDINGS = [
    fine("settings", "me@login"),
    warning("space", "Only 1 MiB is left", "Free some.", "/base on nfs4"),
    wrong("partition", "There is no partition 'x'.", "There are: a, b."),
    skipped("request", "partition has to work first"),
    skipped("job", "partition has to work first"),
    skipped("host key", "nothing is reached over SSH"),
]
GOLDEN = """\
ok       settings      me@login
warning  space         Only 1 MiB is left. Free some.
                       (/base on nfs4)
WRONG    partition     There is no partition 'x'. There are: a, b.
-        not checked   request, job: partition has to work first
-        not checked   host key: nothing is reached over SSH
"""
LONG = [
    fine("shell", "/bin/bash, without a TTY, quiet; bash 5.2.15(1)-release, coreutils 9.1, findutils 4.9"),
    wrong("partition", "There is no partition 'gpus' on this cluster", "Correct SLURM_PARTITION; there are: compute."),
    warning("environment", "No environment", "Name one.", "/shared/environments/of/the/whole/group/analysis/2026-11"),
    *(skipped(name, "partition has to work first") for name in ("request", "writing", "clock", "environment", "job")),
]
AT_80 = """\
ok       shell         /bin/bash, without a TTY, quiet; bash 5.2.15(1)-release,
                       coreutils 9.1, findutils 4.9
WRONG    partition     There is no partition 'gpus' on this cluster. Correct
                       SLURM_PARTITION; there are: compute.
warning  environment   No environment. Name one.
                       (/shared/environments/of/the/whole/group/analysis/2026-11)
-        not checked   request, writing, clock, environment, job: partition has
                       to work first
"""


def drawn(findings: list[Finding], width: int | None = None) -> str:
    told = [line for finding in findings if finding.status != "skipped" for line in lines_of(finding, width=width)]
    return "".join(f"{line}\n" for line in [*told, *lines_of_skipped(findings, width=width)])


def test_golden_text() -> None:
    assert drawn(FINDINGS) == GOLDEN


def test_golden_text_at_80_columns() -> None:
    assert drawn(LONG, 80) == AT_80
    assert max(map(len, drawn(LONG).splitlines())) > 80


@pytest.mark.parametrize(
    ("findings", "line", "status"),
    [
        (FINDINGS, "Wrong: partition; 1 step fine, 1 warning (space), 3 not checked.", "wrong"),
        (FINDINGS[:2], "Nothing is wrong; 1 step fine, 1 warning (space).", "warning"),
        (FINDINGS[:1] * 2, "Nothing is wrong; 2 steps fine.", "ok"),
    ],
)
def test_the_last_line_sums_up(findings: list[Finding], line: str, status: str) -> None:
    assert (summary(findings), overall(findings)) == (line, status)


@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_the_name_of_a_step_fits_its_column(step: str) -> None:
    assert lines_of(fine(step, "found"))[0].endswith(f"{step:13} found")


def test_every_text_is_one_line() -> None:
    finding = wrong("a", "one\ntwo", "three\r\n four", "five\n")
    assert (finding.problem, finding.remedy, finding.found) == ("one two", "three four", "five")


def test_the_form_of_the_json_is_stable() -> None:
    told = json.loads(json.dumps(as_json(FINDINGS[2:3], host="me@login", logins=1)))
    assert told == {
        "version": 1,
        "status": "wrong",
        "host": "me@login",
        "logins": 1,
        "summary": "Wrong: partition; 0 steps fine.",
        "findings": [
            {
                "step": "partition",
                "status": "wrong",
                "found": "",
                "problem": "There is no partition 'x'.",
                "remedy": "There are: a, b.",
            }
        ],
    }


def test_the_steps_fit_their_column_and_need_only_what_comes_before() -> None:
    seen: set[str] = set()
    for step in STEPS:
        assert len(step.name) < 14
        assert set(step.needs) <= seen
        seen.add(step.name)


class TestCommand:
    @pytest.fixture(autouse=True)
    def _no_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SLURM_EDGE_NODE_HOST", raising=False)

    def test_without_settings_it_says_so(self) -> None:
        done = CliRunner().invoke(main, ["doctor"])
        assert done.exit_code == 1
        lines = done.output.splitlines()
        assert lines[0].startswith("WRONG    settings      The environment variable SLURM_EDGE_NODE_HOST is not set.")
        assert lines[1].startswith("ok       package       dagster-slurm ")
        others = ", ".join(step.name for step in STEPS[2:])
        assert lines[2:-2] == [f"-        not checked   {others}: settings has to work first"]
        assert lines[-1] == f"Wrong: settings; 1 step fine, {len(STEPS) - 2} not checked."

    def test_json(self) -> None:
        done = CliRunner().invoke(main, ["doctor", "--json"])
        told = json.loads(done.output)
        assert (done.exit_code, told["status"], told["host"], told["logins"]) == (1, "wrong", None, 0)
        assert [each["step"] for each in told["findings"]] == [step.name for step in STEPS]

    def test_colours_on_a_terminal_only(self) -> None:
        assert "\x1b[" in CliRunner().invoke(main, ["doctor"], color=True).output
        assert "\x1b[" not in CliRunner().invoke(main, ["doctor"]).output

    def test_no_colours_for_who_wants_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As https://no-color.org has it: set, and not empty."""
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b[" not in CliRunner().invoke(main, ["doctor"], color=True).output
        monkeypatch.setenv("NO_COLOR", "")
        assert "\x1b[" in CliRunner().invoke(main, ["doctor"], color=True).output

    def test_usage(self) -> None:
        assert CliRunner().invoke(main, ["doctor", "--nonsense"]).exit_code == 2

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("SLURM_EDGE_NODE_PORT", "0", "SLURM_EDGE_NODE_PORT is not usable"),
            ("SLURM_EDGE_NODE_PORT", "ssh", "SLURM_EDGE_NODE_PORT is 'ssh'"),
            ("SLURM_EDGE_NODE_HOST_KEY_CHECKING", "perhaps", "HOST_KEY_CHECKING is not usable"),
            ("SLURM_EDGE_NODE_OPTS_EXTRA", "-o 'open", "No closing quotation"),
            ("SLURM_EDGE_NODE_HOST", "me@ login", "is not a name"),
            ("SLURM_EDGE_NODE_KEY_PATH", "/nonexistent", "/nonexistent does not exist"),
            ("SLURM_TIME", "soon", "not a valid time limit: 'soon'"),
        ],
    )
    def test_settings_that_cannot_be_used(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
    ) -> None:
        monkeypatch.setenv("SLURM_EDGE_NODE_HOST", "login.invalid")
        monkeypatch.setenv("SLURM_EDGE_NODE_PASSWORD", "planted-secret")
        monkeypatch.setenv(name, value)
        done = CliRunner().invoke(main, ["doctor"])
        assert done.exit_code == 1
        assert said in done.output.splitlines()[0]
        assert "planted-secret" not in done.output

    def test_a_key_that_others_can_read(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.touch(mode=0o644)
        monkeypatch.setenv("SLURM_EDGE_NODE_HOST", "login.invalid")
        monkeypatch.setenv("SLURM_EDGE_NODE_KEY_PATH", str(key))
        assert f"Run `chmod 600 {key}`." in CliRunner().invoke(main, ["doctor"]).output


def test_help_does_not_load_dagster() -> None:
    # tests/unit/test_imports.py asks the same of the modules; this, that the list of commands is there.
    assert "doctor" in CliRunner().invoke(main, ["--help"]).output
    assert issubclass(DagsterSlurmError, Exception)


def test_a_path_that_is_too_long_stays_whole_on_a_line_of_its_own() -> None:
    path = f"/shared/{'long/' * 14}runs"
    found = Finding("space", "ok", f"{path} on ext4: 45.3 GiB of 252 GiB free")
    first, second, third = lines_of(found, width=80)
    assert first.split() == ["ok", "space"]
    assert second.strip() == path
    assert third.strip() == "on ext4: 45.3 GiB of 252 GiB free"
    assert len(lines_of(found)) == 1
