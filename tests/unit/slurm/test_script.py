"""The batch script: golden text, and quoting that sbatch's directive parser reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm.request import JobRequest, directive, escape_filename, merge, quote, render_script

GOLDEN = r"""#!/bin/bash
#SBATCH --comment="it's \"5 %\" of C:\\x # y; $(z)"
#SBATCH --cpus-per-task=2
#SBATCH --exclusive
#SBATCH --gres=gpu:a100:2
#SBATCH --mem=4096M
#SBATCH --nodes=2
#SBATCH --open-mode=append
#SBATCH --output="/scratch/a b/%%j/out"
#SBATCH --partition=gpu,compute
#SBATCH --signal=B:USR1@60
#SBATCH --time=1-00:00:00

echo "#SBATCH --not=one"
exit 0
"""


def test_golden_script() -> None:
    request = merge(
        {"nodes": 2, "cpus": 2, "mem": "4G", "time": "1-0", "partition": "gpu,compute", "signal_before_timeout": 60},
        {"gres": "gpu:a100:2", "exclusive": True, "comment": r"""it's "5 %" of C:\x # y; $(z)"""},
    )
    body = 'echo "#SBATCH --not=one"\nexit 0\n'
    script = render_script(request, output_path="/scratch/a b/%j/out", body=body)
    assert script == GOLDEN


@pytest.mark.parametrize("path", ["relative", "", "/a\nb", "/a\0b", "/a\\b", "/a\rb"])
def test_output_paths_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidRequestError):
        render_script(JobRequest(), output_path=path, body="true")


def test_escape_filename() -> None:
    assert escape_filename("/a/%j/100%") == "/a/%%j/100%%"


def sbatch_reads(text: str) -> list[str]:
    """sbatch's directive parser, as observed on 22.05.8: words, quotes, escapes, comment."""
    words, word, quoted, started, at = [], "", "", False, 0
    while at < len(text):
        character = text[at]
        if character == "\\" and at + 1 < len(text):
            at += 1
            word += text[at]
            started = True
        elif quoted:
            quoted, word = ("", word) if character == quoted else (quoted, word + character)
        elif character in "\"'":
            quoted, started = character, True
        elif character == "#":
            break
        elif character in " \t\v\f":
            if started:
                words.append(word)
            word, started = "", False
        else:
            word, started = word + character, True
        at += 1
    return [*words, word] if started else words


HOSTILE = st.text(alphabet=st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), min_size=1)
SHELLISH = st.text(alphabet="ab \t\"'\\#;$()`%&|<>*=:-é漢", min_size=1)


@given(HOSTILE | SHELLISH)
def test_any_line_of_text_is_read_back(value: str) -> None:
    line = directive("comment", value)
    assert "\n" not in line
    assert sbatch_reads(line.removeprefix("#SBATCH ")) == [f"--comment={value}"]


@given(st.text())
def test_any_text_is_quoted_or_refused(value: str) -> None:
    try:
        quote("comment", value)
    except InvalidRequestError:
        assert any(character in value for character in "\n\r\0") or not value.isprintable()
