"""pause.sh, as this bash does it, and as one before 5.2 does."""

from __future__ import annotations

import subprocess

import pytest

from dagster_slurm.transport.shell import shell_file

PAUSE = shell_file("dagster_slurm.launchers", "pause.sh")
OLDER = PAUSE.replace("-ge 502", "-ge 99999")
NEVER = "exec {pipe}<> <(:)"


@pytest.fixture(params=[PAUSE, OLDER], ids=["this bash", "before 5.2"])
def pause(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def said(pause: str, *lines: str) -> str:
    script = "\n".join((pause, *lines))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout


def test_the_older_way_is_another() -> None:
    assert OLDER != PAUSE


def test_it_lasts_as_long_as_it_is_told(pause: str) -> None:
    began = "began=${EPOCHREALTIME/[.,]/}"
    ended = 'echo "$(($? > 128)) $((${EPOCHREALTIME/[.,]/} - began >= 200000)) [$REPLY]"'
    assert said(pause, NEVER, began, 'pause_on 0.2 "$pipe"', ended) == "1 1 []\n"


def test_a_line_is_given_on(pause: str) -> None:
    assert said(pause, NEVER, "echo stop >&$pipe", 'pause_on 0.1 "$pipe"; echo "$? $REPLY"') == "0 stop\n"


def test_an_end_is_told(pause: str) -> None:
    assert said(pause, "exec {pipe}< <(:)", "wait $!", 'pause_on 0.1 "$pipe"; echo $?') == "1\n"


@pytest.mark.parametrize("version", ["501", "99999"], ids=["a here-string", "a process"])
def test_an_opened_pipe_neither_ends_nor_says_anything(version: str) -> None:
    """Its writers may go, and what is written comes out of it."""
    pause = PAUSE.replace("-ge 501", f"-ge {version}")
    steps = ("open_pipe 7; (echo line >&7)", 'read -r line <&7; read -rt 0.01 -u 7; echo "$line $(($? > 128))"')
    assert said(pause, *steps) == "line 1\n"
    assert (pause == PAUSE) is (version == "501")
